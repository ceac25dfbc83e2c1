"""The main job on a GPU: from nothing to a written student, by the commands that a user types."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.worker import Found, Setting, run_beside

TASK = "ag_news"
TEACHER = ["--rows", "64", "--chunk-rows", "16", "--shard-rows", "32", "--self-generated", "0"]
STUDENT = ["--steps", "2", "--batch-size", "16", "--held-out-rows", "16"]
"""Options of a quick try."""


class Part:
    """Both commands, with the defaults of ``params.yaml``."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def measure(self, name: str, limit: float) -> Found:
        """Run both commands; ``name`` is the only one there is."""
        ends = time.monotonic() + limit - 5
        quick = self._setting.quick
        with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
            there = Path(folder)
            common = ["--task", TASK, "--device", self._setting.device, "--cache", folder]
            summary, metrics = there / "summary.json", there / "metrics.json"
            teacher = ["teacher", *common, "--model", "mini", "--summary", str(summary)]
            first = run_command([*teacher, *(TEACHER if quick else [])], ends)
            student = ["student", *common, "--arch", "mini", "--from", str(summary)]
            student += ["--out", str(there / "student"), "--metrics", str(metrics)]
            second = run_command([*student, *(STUDENT if quick else [])], ends)
            if not (there / "student" / "config.json").is_file():
                raise RuntimeError("no student was written")
            found, rows = json.loads(metrics.read_text()), json.loads(summary.read_text())["rows"]
        line = {"name": name, "teacher": first, "student": second, "whole": first + second}
        line |= {"rows": rows, "agreement": found["agreement"], "angle": found["angle"]}
        return Found([line])


def run_command(arguments: list[str], ends: float) -> float:
    """Run ``pipeline``; return the seconds it took, its start included.

    Raises:
        RuntimeError: It failed, or its time was up.
    """
    began = time.monotonic()
    code, last = run_beside([sys.executable, "-m", "pipeline", *arguments], ends - began)
    if code:
        raise RuntimeError(f"pipeline {arguments[0]} ended with code {code}: {last}")
    return time.monotonic() - began
