"""One process at a time on one directory: a lock that dies with its holder."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.reporter import Reporter

POLL_SECONDS = 1.0


@contextmanager
def hold_lock(path: Path, reporter: Reporter) -> Iterator[bool]:
    """Hold a lock file, waiting for whichever live process holds it.

    The file is made if need be and never removed, so that nobody locks another one.  Yields whether
    another process had to be waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    reporter.say(f"waiting for process {holder or '?'}, which holds {path}")
                    waited = True
                reporter.check_stop()
                time.sleep(POLL_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield waited
    finally:
        os.close(descriptor)
