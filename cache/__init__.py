"""What a cached row is, and how it stays safe.  Knows no prompt, no stage and no command.

``opening`` makes, opens and lists caches, ``lookup`` finds them by name, ``directory`` is an opened
one; ``reader`` gives its rows, ``verification`` checks and repairs it, ``removal`` deletes it.
Below lie ``format``, ``stores`` and ``draw``.
"""
