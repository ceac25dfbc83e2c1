"""Small result files, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def format_json(data: Any) -> str:
    """Format as JSON; what is NaN or infinite, such as the angle of a constant, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return json.dumps(plain(data), indent=2, allow_nan=False)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of this process's own: torchrun's ranks all write the one summary.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(format_json(data) + "\n")
    partial.replace(path)
