"""What a student was trained from and how, kept with its weights; and its directory as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.errors import ExportError, ModelError

RECORD = "training.json"

NEEDED = ("task", "start_id", "fingerprint", "held_out")
"""What is read of a record."""


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a student was trained from.

    Raises:
        ExportError: The directory is no student of this project.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder} is no student: {RECORD} is missing or damaged") from error
    lost = [key for key in NEEDED if not isinstance(record, dict) or key not in record]
    if lost:
        raise ExportError(f"{folder} is no student: {RECORD} does not say its {', '.join(lost)}")
    found: dict[str, Any] = record
    return found


def find_record(folder: Path) -> dict[str, Any]:
    """Read what a student was trained from; an empty record of a model that is none of ours.

    Raises:
        ExportError: The record is damaged.
    """
    return read_record(folder) if (folder / RECORD).is_file() else {}


def read_temperature(record: Mapping[str, Any]) -> float | None:
    """Return the temperature that a student's last layer was divided by, or None.

    Args:
        record: From :func:`read_record` or :func:`find_record`.

    Raises:
        ModelError: The record's temperature is none.
    """
    found = record.get("calibration")
    if found is None:
        return None
    if not isinstance(found, dict) or "temperature" not in found:
        raise ModelError("the student's record is damaged: its calibration names no temperature")
    if not found.get("folded"):
        return None
    value = found["temperature"]
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"the student's record is damaged: its temperature is {value!r}")
    return float(value)


def publish_directory(folder: Path, out: Path) -> None:
    """Sync a finished directory and rename it to its place.

    Args:
        folder: What was written, in a temporary directory beside ``out``.
        out: Its place; what is there already goes into the temporary directory.

    Raises:
        OSError: It cannot be synced or renamed.
    """
    # Imported here: a student in use needs no cache, nor the locks that only Unix has.
    from cache.stores import sync

    for path in (*folder.rglob("*"), folder):
        sync(path)
    if out.exists():
        out.rename(folder.with_name("replaced"))
    folder.rename(out)
    sync(out.parent)
