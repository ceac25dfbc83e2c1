"""``python -m pipeline`` is the ``pipeline`` command, so that torchrun can start it."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
