"""What a person sees: lines, warnings, progress, and a stop on a signal."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from pipeline.stopping import Stop

PLAIN_SECONDS = 15.0  # between lines of progress where standard error is no terminal
FIRST_SECONDS = 5.0  # until the first one
TICK_SECONDS = 1.0


class Console(Stop):
    """A reporter on standard error; results alone go to standard output."""

    def __init__(self, resumable: bool = False) -> None:
        """Make a reporter; ``resumable`` where the same command continues after a signal."""
        super().__init__("stopped; the same command continues" if resumable else "stopped")
        self._has_bar = False

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

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        """Show a bar with rate and time left on a terminal, a line at intervals otherwise."""
        # The bars of torchrun's ranks, which share a terminal, would overwrite each other.
        if not sys.stderr.isatty() or "LOCAL_RANK" in os.environ:
            show = _track_plainly(title, total, done, unit)
            with _tick(show, self.check_stop) as advance:
                yield advance
            return
        from tqdm import tqdm

        had_bar, alone = self._has_bar, total == 1
        with tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=f" {unit}s",
            file=sys.stderr,
            miniters=0,
            leave=not alone,
            delay=TICK_SECONDS / 2 if alone else 0,
            bar_format="{desc}: {elapsed}" if alone else None,
        ) as bar:
            self._has_bar = True
            try:
                with _tick(bar.update, self.check_stop) as advance:
                    yield advance
            finally:
                self._has_bar = had_bar


@contextmanager
def _tick(
    show: Callable[[int], object], check_stop: Callable[[], None]
) -> Iterator[Callable[[int], None]]:
    """Have progress shown again and again while nothing is done, by a thread."""
    lock, ended = threading.Lock(), threading.Event()

    def advance(count: int) -> None:
        with lock:
            show(count)
        check_stop()

    def tick() -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more
            while not ended.wait(TICK_SECONDS):
                with lock:
                    show(0)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def _track_plainly(title: str, total: int, done: int, unit: str) -> Callable[[int], None]:
    began = time.monotonic()
    last = began - max(0.0, PLAIN_SECONDS - FIRST_SECONDS)
    first = done

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last < PLAIN_SECONDS:
            return
        last, taken = now, now - began
        line = title if total == 1 else f"{title}: {done:,} of {total:,} {unit}s"
        if done == first:  # no rate is known then
            click.echo(f"{line}, {taken:,.0f} s so far", err=True)
            return
        rate = (done - first) / taken
        left = max(0, total - done) / rate
        click.echo(f"{line}, {rate:,.1f} a second, {left:,.0f} s left", err=True)

    return advance


def quieten_libraries() -> None:
    """Keep the libraries' own bars and notices from between the lines; errors still show."""
    # Before transformers is imported, which imports torchao wherever it is installed.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
