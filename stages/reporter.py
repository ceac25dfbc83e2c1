"""How a stage tells whoever runs it what it does; the command line decides how that looks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Interrupted(BaseException):
    """A stage stopped because it was asked to; nothing is lost.

    Whatever is given a reporter may raise it; like KeyboardInterrupt it is no Exception.
    """


class Reporter(Protocol):
    """What a stage needs of its surroundings."""

    def say(self, line: str) -> None:
        """State a fact or a choice."""

    def warn(self, line: str) -> None:
        """State something that the reader should act on."""

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        """Show progress, or nothing; the callable takes how many more units are done.

        It is a safe point to stop at, as :meth:`check_stop` is.  Where the total is 1 there is no
        telling how far it is, and the time taken is shown alone.
        """
        yield lambda count: self.check_stop()

    def check_stop(self) -> None:
        """Return, or raise :class:`Interrupted` where a stop was asked for."""
        return


class SilentReporter(Reporter):
    """Keeps what is said in lists and never stops, for callers that are programs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def say(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)

    def warn(self, line: str) -> None:
        """Keep a warning."""
        self.warnings.append(line)
