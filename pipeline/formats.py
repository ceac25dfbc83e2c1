"""Numbers as people read them, and small JSON files, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def format_duration(seconds: float) -> str:
    """Return a time as hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def format_size(count: int) -> str:
    """Return a number of bytes in MiB, or in GiB from a thousand of those."""
    return f"{count / 2**30:,.1f} GiB" if count >= 1000 * 2**20 else f"{count / 2**20:,.1f} MiB"


def format_json(data: Any) -> str:
    """Format as JSON; NaN, such as the angle of a constant, becomes null."""

    def read(constant: str) -> float | None:
        return None if constant == "NaN" else float(constant)

    return json.dumps(json.loads(json.dumps(data), parse_constant=read), indent=2, allow_nan=False)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of this process's own: torchrun's ranks all write the one summary.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(format_json(data) + "\n")
    partial.replace(path)
