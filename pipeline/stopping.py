"""Being asked to stop: SIGINT and SIGTERM are heeded within seconds, whatever is under way.

After a first signal the work ends at its next safe point.  Where none comes, the main thread gets
an exception at its present line, and one more if that is lost (in a ``__del__``); where a library
does not come back, the process ends: a kill is survived.  A second signal ends it at once.
"""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from stages.reporter import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = 130
"""The exit code."""

GRACE_SECONDS, LAST_SECONDS, EXCEPTIONS = 2.0, 1.0, 2
"""How long a safe point is waited for, and how long each exception may take to end the work."""

_END = 0


class Stop:
    """Whether a stop was asked for; ``message`` is what is said once the work has ended."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._asked = self._due = self._heeded = False

    def check_stop(self) -> None:
        """Raise :class:`Interrupted` after a first signal; this is a safe point."""
        if self._asked:
            self._heeded = True
            raise Interrupted(self._message)

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM inside into a stop; a second ends the process at once.

        On the main thread alone, as Python has it.
        """
        self._due = self._heeded = False
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Python's own handlers wait for the main thread, which may be in a library's code for
        # minutes.  The number of a signal is in this pipe at once, and a thread reads it.
        wake_up = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        every = (*SIGNALS, signal.SIGUSR1)  # the last one is the watcher's own
        before = {number: signal.signal(number, self._handle) for number in every}
        watcher = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        watcher.start()
        try:
            yield
        except Exception as error:  # what a library made of the exception that it was given
            if self._asked and not self._heeded:
                raise Interrupted(self._message) from error
            raise
        finally:
            self._heeded = True
            signal.set_wakeup_fd(wake_up)
            os.write(writer, bytes([_END]))
            watcher.join()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._due and not self._heeded:
            self._due = False
            raise Interrupted(self._message)

    def _watch(self, reader: int) -> None:
        asked, raised = False, 0
        seconds: float | None = None
        while True:
            if not select.select([reader], [], [], seconds)[0]:
                if self._heeded:  # what is being saved now may take its time
                    seconds = None
                elif raised < EXCEPTIONS:
                    raised, seconds, self._due = raised + 1, LAST_SECONDS, True
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                else:
                    end(f"{self._message}\n")
                continue
            for number in os.read(reader, 64):
                if number == _END:
                    return
                if number not in SIGNALS:
                    continue
                if asked:
                    end("")
                asked, seconds = True, GRACE_SECONDS
                _tell("\nstopping at the next safe point; once more to stop at once\n")


def end(line: str) -> NoReturn:
    """End the process at once, whatever it is doing, with a line of what is said."""
    _tell(line)
    os._exit(STOPPED)


def _tell(line: str) -> None:
    # Not through click: the main thread may be in the middle of a print.
    with suppress(OSError):
        os.write(2, line.encode())
