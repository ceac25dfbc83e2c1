"""Whether a GPU answers as the CPU does: ``pytest -m gpu``, told by its own report."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.worker import Found, Setting, run_beside


class Part:
    """The tests that are for a GPU."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def measure(self, name: str, limit: float) -> Found:
        """Run the tests; ``name`` is the only one there is."""
        options = ["-m", "gpu", "-q", "-rsfE", "--durations=10", "-p", "no:cacheprovider"]
        device = self._setting.device.partition(":")[0]
        if self._setting.tests:
            options += ["-k", self._setting.tests]
        with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
            report = Path(folder) / "report.xml"
            options += [f"--gpu-device={device}", f"--junitxml={report}"]
            command = [sys.executable, "-m", name, *options, "tests/gpu"]
            # Interrupted in time, pytest still writes what it has.
            code, last = run_beside(command, max(5.0, limit - 15), signal.SIGINT)
            if not report.is_file():
                raise RuntimeError(f"pytest ended with code {code}: {last}")
            found = read_report(report)
        if not found.why and code:
            found.why = f"pytest ended with code {code}: {last}"
        return found


def read_report(path: Path) -> Found:
    """Read a report of pytest's: a line for each file of tests, and what the tests say."""
    files: dict[str, dict[str, int | float]] = {}
    figures, skipped, failed = [], [], []
    for case in ElementTree.parse(path).getroot().iter("testcase"):  # noqa: S314 - our own file
        parts = case.get("classname", "").split(".")
        name = next((part for part in parts if part.startswith("test_")), parts[-1])
        test = f"{name}::{case.get('name')}"
        counts = files.setdefault(name, {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
        counts["seconds"] += float(case.get("time", 0))
        for entry in case.iter("property"):
            figures.append(f"{test}: {entry.get('name')} = {entry.get('value')}")
        problem = next((each for tag in ("failure", "error") for each in case.iter(tag)), None)
        skip = case.find("skipped")
        if problem is not None:
            counts["failed"] += 1
            failed.append(f"{test}: {_shorten(problem.get('message') or problem.text)}")
        elif skip is not None:
            counts["skipped"] += 1
            skipped.append(f"{test} skipped: {_shorten(skip.get('message'))}")
        else:
            counts["passed"] += 1
    lines = [{"name": name, **counts} for name, counts in sorted(files.items())]
    why = f"{len(failed)} test(s) failed" if failed else ""
    return Found(lines, [*(f"failed: {each}" for each in failed), *figures, *skipped], why)


def _shorten(text: str | None) -> str:
    return ((text or "").strip().splitlines() or [""])[0][:200]
