from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import plan
from benchmarks.gpu.correctness import read_report
from benchmarks.gpu.plan import KERNELS, PEAK, ROWS, Row
from benchmarks.gpu.table import COLUMNS, Book
from benchmarks.gpu.worker import Setting

ROOT = Path(__file__).parents[2]
FAKE = """\
import os, time
from benchmarks.gpu.worker import Found

class Part:
    def __init__(self, setting):
        self.number = 0

    def measure(self, name, limit):
        self.number += 1
        if name == "raises":
            raise ValueError("no | memory")
        if name == "dies":
            os._exit(3)
        if name == "hangs":
            time.sleep(60)
        return Found([{"name": name, "number": self.number}])
"""
KNOWN = {"device": "cpu", "torch": "2", "transformers": "5", "sources": "ab", "quick": True}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu_fakes").mkdir()
    (tmp_path / "gpu_fakes" / "student.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(benchmark, "PLACE", "gpu_fakes")


def measure(names: list[str], seconds: float = 60, limit: float = 60) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    rows = [Row("student", name, (limit - 30) / 1.5) for name in names]
    ends = time.monotonic() + seconds
    good = benchmark.measure_rows(rows, Setting("cpu"), ends, kept.append)
    assert good == all(record["status"] != "failed" for record in kept)
    return kept


def test_a_failed_row_is_told_and_the_next_goes_on(fake: None) -> None:
    kept = measure(["one", "two", "raises", "dies", "one"])
    assert [record["status"] for record in kept] == ["done", "done", "failed", "failed", "done"]
    assert [record["why"] for record in kept[2:4]] == [
        "ValueError: no | memory",
        "its process ended with code 3",
    ]
    # One process for all rows, until one of them fails.
    assert [kept[k]["lines"][0]["number"] for k in (0, 1, 4)] == [1, 2, 1]


def test_a_row_that_hangs_is_ended(fake: None) -> None:
    kept = measure(["hangs", "one"], limit=2)
    assert [record["why"] for record in kept] == ["it was ended after 2 s", ""]


def test_a_row_that_does_not_fit_is_left_out(fake: None) -> None:
    (record,) = measure(["one"], seconds=10)
    assert record["status"] == "left out"
    assert record["why"] == "about 20 s, 10 s were left"


def test_rows_of_something_else_are_marked_until_they_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    row = {"part": "student", "name": "minilm", "status": "done", "seconds": 1, "why": ""}
    row |= {"lines": [{"name": "minilm", "ratio": 0.96}], "notes": ["so it was"]}
    Book(out, KNOWN).add(row)
    assert Book(out, KNOWN).has("student", "minilm") and "0.960" in out.read_text()
    other = Book(out, KNOWN | {"sources": "cd"})
    assert not other.has("student", "minilm")
    other.write()
    assert "| minilm † |" in out.read_text() and "† cpu; torch 2" in out.read_text()
    other.add(row | {"status": "failed", "lines": [], "why": "no | memory"})
    assert not other.has("student", "minilm")
    text = out.read_text()
    assert "| minilm | failed: no / memory |" in text and "†" not in text


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = plan.importlib.util.find_spec
    absent = ("zarr", "donfig", "pytest")
    monkeypatch.setattr(
        plan.importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    out = ["--out", str(tmp_path / "gpu.md"), "--quick", "--device", "cpu"]
    assert benchmark.main(out) == 1
    assert capsys.readouterr().err == (
        "error: these packages are missing: zarr, donfig; only teacher can do without (--only)\n"
    )
    # What can be done without is told, and only its part is left out; no time is given for others.
    assert benchmark.main([*out, "--only", "teacher", "--seconds", "0"]) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "pytest is not there: correctness is left out." in text
    assert text.count("left out: about 5 s, 0 s were left") == sum(
        row.part == "teacher" for row in ROWS
    )


def test_a_report_becomes_a_line_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(
        """<testsuites><testsuite>
        <testcase classname="tests.gpu.test_a" name="one" time="1.5"><properties>
        <property name="agreement" value="0.99"/></properties></testcase>
        <testcase classname="tests.gpu.test_a.TestB" name="two" time="1"><failure
        message="assert 1 == 2&#10;more">trace</failure></testcase>
        <testcase classname="tests.gpu.test_c" name="three" time="0"><skipped
        message="no fp8"/></testcase></testsuite></testsuites>"""
    )
    found = read_report(tmp_path / "report.xml")
    assert found.lines == [
        {"name": "test_a", "passed": 1, "failed": 1, "skipped": 0, "seconds": 2.5},
        {"name": "test_c", "passed": 0, "failed": 0, "skipped": 1, "seconds": 0.0},
    ]
    assert found.why == "1 test(s) failed"
    assert found.notes == [
        "failed: test_a::two: assert 1 == 2",
        "test_a::one: agreement = 0.99",
        "test_c::three skipped: no fp8",
    ]


def test_a_killed_run_is_continued_to_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "gpu.md"
    with start(out, "--only", "teacher") as first:
        wait_for(out.with_suffix(".json"), '"ours, constant"')
        first.send_signal(signal.SIGKILL)
    before = json.loads(out.with_suffix(".json").read_text())
    assert "| ours, constant |" in out.read_text() and "Not there: " in out.read_text()
    # What takes longest is only tried by the test below.
    longest = [row for row in ROWS if row.late or row.part == "job"]
    for row in longest:
        before.append(before[0] | {"part": row.part, "name": row.name, "lines": []})
    out.with_suffix(".json").write_text(json.dumps(before))
    said = finish(out)
    assert f"continuing: {len(before)} of {len(ROWS)} rows are in " in said
    assert "teacher: ours, constant: about" not in said
    assert "teacher: ours, uniform: about" in said
    assert json.loads(out.with_suffix(".json").read_text())[: len(before)] == before
    ratios = [line for line in out.read_text().splitlines() if line.startswith("| obvious loop")]
    assert [line.split("|")[3].strip() for line in ratios] == ["1.00", "1.00"]


@pytest.mark.slow
def test_the_whole_of_it_with_tiny_models(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    assert "continuing" not in finish(out)


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", *options]
    return subprocess.Popen(
        [*command, "--out", str(out), "--tests", "draws and uniform"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(out: Path) -> str:
    """Run what is missing, see that all rows are there with all their figures, tell the log."""
    with start(out) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said[-5000:]
    records = json.loads(out.with_suffix(".json").read_text())
    assert {(record["part"], record["name"]) for record in records} == {
        (row.part, row.name) for row in ROWS
    }
    text = out.read_text()
    assert "failed:" not in text and "Not there" not in text
    assert "its figures mean nothing" in text
    some = {"memory", "times", "apart", "trimmed", "compiled", "batch", "tuning"}
    for record in records:
        if record["name"] in (PEAK, KERNELS):
            continue
        keys = {column.split(":")[0] for column in COLUMNS[record["part"]].split(", ")}
        for line in record["lines"]:
            assert keys - some <= line.keys()
    return said


def wait_for(path: Path, words: str) -> None:
    ends = time.monotonic() + 120
    while not (path.is_file() and words in path.read_text()):
        assert time.monotonic() < ends
        time.sleep(0.1)
