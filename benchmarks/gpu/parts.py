"""The parts of ``benchmarks.gpu``, except the teacher, whose models need a module of their own.

A part takes a row's name, how to measure, and the seconds that it may take.  It returns lines of
the table, by the keys of their columns, sentences below it, and what is wrong, if anything is.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from benchmarks.fixtures import Fixtures

ROOT = Path(__file__).parents[2]
Found = tuple[list[dict[str, Any]], list[str], str]

TASK = "ag_news"
STUDENT_STEPS = {"roberta-large": 120, "minilm": 400}
TURN = 10
"""Steps that a loop takes before the other's turn: a GPU is set going several steps ahead."""
QUICK_TEACHER = ("--rows", "64", "--chunk-rows", "16", "--shard-rows", "32")
QUICK_TEACHER += ("--self-generated", "0")
QUICK_STUDENT = ("--steps", "2", "--batch-size", "16", "--held-out-rows", "16")


@dataclass(frozen=True)
class Setting:
    """How everything is measured: a device of torch, tiny models or not, and pytest's ``-k``."""

    device: str
    quick: bool = False
    tests: str = ""


def correctness(name: str, setting: Setting, seconds: float) -> Found:
    """Run the tests that are for a GPU, and read their report."""
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", name, "-m", "gpu", "-q", "-rsfE", "--durations=10"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}", "-k", setting.tests]
        command += [f"--gpu-device={setting.device.partition(':')[0]}", "tests/gpu"]
        # Interrupted in time, pytest still writes what it has.
        code, last = run_command(command, max(5.0, seconds - 10), signal.SIGINT)
        if not report.is_file():
            raise RuntimeError(f"pytest ended with code {code}: {last}")
        lines, notes, why = read_report(report)
    return lines, notes, why or (f"pytest ended with code {code}: {last}" if code else "")


def read_report(path: Path) -> Found:
    """Read a report of pytest's: a line for each file of tests, and what the tests say."""
    files: dict[str, dict[str, Any]] = {}
    notes: dict[str, list[str]] = {"failed": [], "skipped": []}
    values: dict[str, list[float]] = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):  # noqa: S314 - our own file
        parts = case.get("classname", "").split(".")
        name = next((part for part in parts if part.startswith("test_")), parts[-1])
        counts = {"name": name, "passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0}
        counts = files.setdefault(name, counts)
        counts["seconds"] += float(case.get("time", 0))
        told = {each.tag: each for each in case}
        problem = told.get("failure", told.get("error", told.get("skipped")))
        status = "passed" if problem is None else "failed"
        status = "skipped" if "skipped" in told else status
        counts[status] += 1
        test = f"{name}::{case.get('name')}"
        for entry in case.iter("property"):
            # Of a test that is run with many settings, by the first of them.
            name = f"{test.partition('-')[0].rstrip(']').replace('[', ', ')}: {entry.get('name')}"
            values.setdefault(name, []).append(float(entry.get("value", "nan")))
        if problem is not None:
            text = (problem.get("message") or problem.text or "").strip().partition("\n")[0]
            text = text.replace(f"{ROOT}/", "")  # where it was run is nobody's business
            notes[status].append(f"{status}: {test}: {text[:200]}")
    why = f"{len(notes['failed'])} test(s) failed" if notes["failed"] else ""
    lines = [files[name] for name in sorted(files)]
    found = [
        f"{name}: {min(x):.4g}" + (f" to {max(x):.4g}, {len(x)} times" if len(x) > 1 else "")
        for name, x in values.items()
    ]
    return lines, [*notes["failed"], *found, *notes["skipped"]], why


def student(name: str, setting: Setting, seconds: float) -> Found:
    """Compare stage two's loop with a bare loop for one architecture."""
    from benchmarks.stepping import compare_loops

    arch, steps, turn = name, STUDENT_STEPS[name], TURN
    if setting.quick:
        arch, steps, turn = "static", 16, 2
    found = compare_loops(_make_fixtures(setting), arch, steps, turn)
    line = {"name": name, "steps": steps, "stage": found.stage, "bare": found.bare}
    line |= {"ratio": found.stage / found.bare, "low": min(found.parts), "high": max(found.parts)}
    return [line], [f"{name}: {found.inputs}"], ""


@functools.cache
def _make_fixtures(setting: Setting) -> Fixtures:
    from benchmarks.fixtures import Fixtures

    folder = tempfile.mkdtemp(prefix="gpu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Fixtures(Path(folder), TASK, 256 if setting.quick else 8192, setting.device)


def job(name: str, setting: Setting, seconds: float) -> Found:
    """Run the main job, from nothing to a written student, by the commands that a user types."""
    ends = time.monotonic() + seconds
    quick_teacher, quick_student = (QUICK_TEACHER, QUICK_STUDENT) if setting.quick else ((), ())
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        summary, metrics, out = (str(Path(folder) / name) for name in ("summary", "metrics", "out"))
        common = ["--task", TASK, "--device", setting.device, "--cache", folder]
        teacher = [*common, "--model", "mini", "--summary", summary, *quick_teacher]
        student = [*common, "--arch", "mini", "--from", summary, "--out", out]
        student += ["--metrics", metrics, *quick_student]
        spent = []
        for stage, options in (("teacher", teacher), ("student", student)):
            start = time.monotonic()
            command = [sys.executable, "-m", "pipeline", stage, *options]
            code, last = run_command(command, ends - start)
            if code:
                raise RuntimeError(f"pipeline {stage} ended with code {code}: {last}")
            spent.append(time.monotonic() - start)
        found, rows = (json.loads(Path(file).read_text()) for file in (metrics, summary))
    line = {"name": name, "teacher": spent[0], "student": spent[1], "whole": sum(spent)}
    line |= {"rows": rows["rows"], "agreement": found["agreement"], "angle": found["angle"]}
    return [line], [], ""


def run_command(
    command: Sequence[str], seconds: float, stop: signal.Signals = signal.SIGKILL
) -> tuple[int, str]:
    """Run a command; show what it said; when its time is up, ask it to end by a signal.

    Returns:
        Its code, negative after a signal, and the last line that it said.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,
    )
    for limit, last in ((seconds, stop), (10, signal.SIGKILL), (None, stop)):
        try:
            text, _ = process.communicate(timeout=limit)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(last)
    print(text, flush=True)
    return process.returncode, (text.strip().splitlines() or [""])[-1]


def die_with_parent() -> None:
    """Have this process end when the one that started it does, on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
