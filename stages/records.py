"""What a student was trained from and how, kept beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.errors import ExportError

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
