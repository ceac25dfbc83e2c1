"""What a student was trained from and how, kept with its weights; and its directory as a whole."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.errors import ExportError, ModelError
from stages.reporter import Reporter

RECORD = "training.json"

POLL_SECONDS = 1.0  # while another process holds a directory's lock

NEEDED = ("task", "start_id", "fingerprint", "held_out")
"""What is read of a record."""


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a student was trained from, or raise ExportError where that is no student."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder} is no student: {RECORD} is missing or damaged") from error
    found: dict[str, Any] = record if isinstance(record, dict) else {}
    if lost := [key for key in NEEDED if key not in found]:
        raise ExportError(f"{folder} is no student: {RECORD} does not say its {', '.join(lost)}")
    return found


def find_record(folder: Path) -> dict[str, Any]:
    """Read what a student was trained from, or raise ExportError; empty if it is none of ours."""
    return read_record(folder) if (folder / RECORD).is_file() else {}


def read_temperature(record: Mapping[str, Any]) -> float | None:
    """Return what a student's last layer was divided by, or None, or raise ModelError."""
    found = record.get("calibration")
    if found is None:
        return None
    if isinstance(found, dict) and "temperature" in found:
        if not found.get("folded"):
            return None
        value = found["temperature"]
        if isinstance(value, int | float) and 0 < value < math.inf:
            return float(value)
    raise ModelError(f"the student's record is damaged: its calibration is {found!r:.80}")


@contextmanager
def publish_directory(out: Path) -> Iterator[Path]:
    """Give an empty directory that is synced and renamed to its place once it is written.

    What is there already is removed then, and the new one where it could not be written, which is
    an OSError.
    """
    # Imported here: a student in use needs no cache, nor the locks that only Unix has.
    from cache.stores import sync

    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        for path in (*folder.rglob("*"), folder):
            sync(path)
        if out.exists():
            out.rename(folder.with_name("replaced"))
        folder.rename(out)
        sync(out.parent)


@contextmanager
def hold_lock(path: Path, reporter: Reporter) -> Iterator[bool]:
    """Hold a lock file, waiting for whichever live process holds it.

    The file is made if need be and never removed, so that nobody locks another one.  Yields whether
    another process had to be waited for.
    """
    import fcntl  # here, since a student in use needs no locks, which only Unix has

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
