"""The command line: ``pipeline --help``.

Nothing but click is imported before a command runs, so that help answers at once.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import click

from pipeline.commands.cache import cache
from pipeline.commands.doctor import doctor
from pipeline.commands.evaluate import evaluate
from pipeline.commands.export import export
from pipeline.commands.report import report
from pipeline.commands.student import student
from pipeline.commands.tag import tag
from pipeline.commands.task import task
from pipeline.commands.teacher import teacher
from pipeline.stopping import SIGNALS, STOPPED, end
from stages.reporter import Interrupted


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="functional-projection", prog_name="pipeline")
def cli() -> None:
    """Turn a language model, a prompt and label words into a small text classifier.

    No text is needed: `pipeline teacher` records the model's answers to random tokens and to texts
    of its own, `pipeline student` trains a classifier on them, `pipeline tag` uses it.
    """


for command in (teacher, student, evaluate, tag, export, report, task, cache, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every failure ends in one sentence and an exit code.

    0: done; 1: it failed; 2: what was asked for cannot be; 130: stopped by a signal.
    """
    # Threads that wait sleep.  As they come they spin, and where another process wants the core of
    # one, the others spin for as long as it is away: a step took 2.5 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Before a command listens itself, as while it imports torch, whose import swallows exceptions.
    before = {number: signal.signal(number, lambda *_: end("stopped\n")) for number in SIGNALS}
    try:
        if sys.stdout is None:  # for which click has nothing to say
            raise click.UsageError("standard output is closed; send it to a file or /dev/null")
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        if isinstance(stop.__cause__ or stop, KeyboardInterrupt):
            _end_stopped("stopped")
        click.echo("stopped", err=True)  # a question was not answered
        sys.exit(STOPPED)
    except BrokenPipeError:
        # Whoever read the output has had enough; Python would complain once more at exit.
        sys.stderr.close()
        sys.exit(1)
    except Interrupted as stop:
        _end_stopped(str(stop))
    except Exception as error:
        sys.exit(_explain(error))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_stopped(line: str) -> NoReturn:
    """End the process, not through the interpreter's end: freeing a model there takes seconds."""
    with suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    end(f"{line}\n")


def _explain(error: Exception) -> int:
    """Print a failure as one sentence, with the command that helps, and return the exit code."""
    from cache.errors import CacheError
    from pipeline.hints import format_hint
    from stages.errors import StageError

    if isinstance(error, StageError | CacheError):
        click.echo(f"error: {error}{format_hint(error)}", err=True)
        return 2 if getattr(error, "usage", False) else 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        return 1
    raise error
