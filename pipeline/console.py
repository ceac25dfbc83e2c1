"""What a person sees: lines, warnings, progress, and a clean end on a signal."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from stages.reporter import Interrupted

PLAIN_SECONDS = 15.0  # between lines of progress where standard error is no terminal


class Console:
    """A reporter on standard error; results alone go to standard output."""

    def __init__(self, resumable: bool = False) -> None:
        """Make a reporter; ``resumable`` where the same command continues after a signal."""
        self._stopped = "stopped; the same command continues" if resumable else "stopped"
        self._has_bar = False
        self._stop = False

    def say(self, line: str) -> None:
        """Print a line, above a progress bar where there is one."""
        if self._has_bar:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)

    def warn(self, line: str) -> None:
        """Print a warning."""
        self.say(f"{click.style('warning:', fg='yellow')} {line}")

    def check_stop(self) -> None:
        """Raise :class:`Interrupted` after a first signal."""
        if self._stop:
            raise Interrupted(self._stopped)

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        """Show a bar with rate and time left on a terminal, a line at intervals otherwise."""
        # The bars of torchrun's ranks, which share a terminal, would overwrite each other.
        if not sys.stderr.isatty() or "LOCAL_RANK" in os.environ:
            yield self._track_plainly(title, total, done, unit)
            return
        from tqdm import tqdm

        with tqdm(total=total, initial=done, desc=title, unit=f" {unit}s", file=sys.stderr) as bar:
            self._has_bar = True
            try:

                def advance(count: int) -> None:
                    bar.update(count)

                yield advance
            finally:
                self._has_bar = False

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a stop at the next safe point; a second kills."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop:
                os._exit(130)
            self._stop = True
            # Not through click: a signal may arrive in the middle of a print.
            with suppress(OSError):
                os.write(2, b"\nstopping at the next safe point; once more to stop at once\n")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _track_plainly(self, title: str, total: int, done: int, unit: str) -> Callable[[int], None]:
        began = last = time.monotonic()
        first = done

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = time.monotonic()
            # Something may be under way before the first one is done: no rate is known then.
            if now - last < PLAIN_SECONDS or done == first:
                return
            last = now
            rate = (done - first) / (now - began)
            left = (total - done) / rate
            click.echo(
                f"{title}: {done:,} of {total:,} {unit}s, {rate:,.1f} a second, {left:,.0f} s left",
                err=True,
            )

        return advance


def quieten_libraries() -> None:
    """Keep the libraries' own bars and notices from between the lines; errors still show."""
    # Before transformers is imported, which imports torchao wherever it is installed.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
