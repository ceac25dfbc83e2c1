from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.parts import read_report
from benchmarks.gpu.table import COLUMNS, FAILED, KERNELS, PEAK, ROWS, Book

ROOT = Path(__file__).parents[2]
FAKE = f"""\
import os, sys, time
from types import SimpleNamespace

sys.path.insert(0, {str(ROOT)!r})
import stages.devices
from benchmarks.gpu import __main__ as benchmark, table

calls = []

def teacher(name, setting, seconds):
    calls.append(name)
    if name == "ours, constant":
        raise ValueError("no | memory")
    if name == "ours, uniform":
        os._exit(3)
    if name == table.KERNELS:
        time.sleep(60)
    return [{{"name": name, "rows": len(calls)}}], [], ""

benchmark.COMMAND = (sys.executable, __file__)
benchmark.PLACES = {{"teacher": "__main__"}}
benchmark.describe_run = lambda device, quick: {{
    "device": device, "torch": "2", "transformers": "5", "sources": "ab", "quick": quick
}}
stages.devices.choose_device = lambda name: SimpleNamespace(value=name)
table.Row.limit = 1.0
if __name__ == "__main__":
    sys.exit(benchmark.main(["--only", "teacher", *sys.argv[1:]]))
"""
KNOWN = {"device": "cpu", "torch": "2", "transformers": "5", "sources": "ab", "quick": True}
MINILM = next(row for row in ROWS if row.name == "minilm")


def run_fake(folder: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    (folder / "fake.py").write_text(FAKE)
    command = [sys.executable, folder / "fake.py", "--out", folder / "gpu.md", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert not done.stderr, done.stderr
    return done.returncode, json.loads((folder / "gpu.json").read_text())


def test_a_failed_row_is_told_and_the_next_goes_on(tmp_path: Path) -> None:
    code, records = run_fake(tmp_path)
    assert code == 1
    assert [record["why"] for record in records[:5]] == [
        "",
        "ValueError: no | memory",
        "its process ended with 3",
        "it took too long",
        "",
    ]
    assert {record["status"] for record in records[4:]} == {"done"}
    # One process for rows that go together, until one of them fails.
    numbers = [record["lines"][0]["rows"] for record in records if record["lines"]]
    assert numbers == [1, *range(1, 5), 1, 2]
    # The same again goes on with what failed, which does not fit in no time at all.
    code, again = run_fake(tmp_path, "--seconds", "0")
    assert code == 0
    for record, later in zip(records, again, strict=True):
        if record["status"] == "done":
            assert later == record
        else:
            assert later["status"] == "left out"
            assert re.fullmatch("about [0-9]+ s, 0 s were left", later["why"])


def test_rows_of_something_else_are_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    lines = [{"name": "minilm", "ratio": 0.96}]
    Book(out, KNOWN).add(MINILM, 1.0, "done", lines=lines, notes=["so it was"])
    assert Book(out, KNOWN).has(MINILM)
    assert "0.960" in out.read_text() and "- so it was" in out.read_text()
    other = Book(out, KNOWN | {"sources": "cd"})
    assert not other.has(MINILM)
    other.write()
    text = out.read_text()
    assert "0.960" in text and "Measured at sources ab: minilm." in text
    assert not Book(out, KNOWN | {"torch": "3"}).find(MINILM)
    other.add(MINILM, 2.0, FAILED, why="no | memory")
    assert not other.has(MINILM)
    text = out.read_text()
    assert "| minilm | failed: no / memory |" in text
    assert "0.960" not in text and "at sources" not in text


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = benchmark.importlib.util.find_spec
    absent = {"zarr", "donfig", "pytest"}
    monkeypatch.setattr(
        benchmark.importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    out = ["--out", str(tmp_path / "gpu.md"), "--quick", "--device", "cpu"]
    assert benchmark.main(out) == 1
    assert capsys.readouterr().err == "error: these packages are missing: zarr, donfig\n"
    # What can be done without is told, and only its part is left out.
    absent -= {"zarr", "donfig"}
    assert benchmark.main([*out, "--only", "correctness"]) == 0
    assert "pytest is not there: correctness is left out." in (tmp_path / "gpu.md").read_text()


def test_a_report_becomes_a_line_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(
        """<testsuites><testsuite>
        <testcase classname="tests.gpu.test_a" name="one[fp16-64]" time="1"><properties>
        <property name="agreement" value="0.99"/></properties></testcase>
        <testcase classname="tests.gpu.test_a" name="one[fp16-8]" time="0.5"><properties>
        <property name="agreement" value="0.97"/></properties></testcase>
        <testcase classname="tests.gpu.test_a.TestB" name="two" time="1"><failure
        message="assert 1 == 2&#10;more">trace</failure></testcase>
        <testcase classname="tests.gpu.test_c" name="three" time="0"><skipped
        message="no fp8"/></testcase></testsuite></testsuites>"""
    )
    lines, notes, why = read_report(tmp_path / "report.xml")
    assert lines == [
        {"name": "test_a", "passed": 2, "failed": 1, "skipped": 0, "seconds": 2.5},
        {"name": "test_c", "passed": 0, "failed": 0, "skipped": 1, "seconds": 0.0},
    ]
    assert why == "1 test(s) failed"
    assert notes == [
        "failed: test_a::two: assert 1 == 2",
        "test_a::one, fp16: agreement: 0.97 to 0.99, 2 times",
        "skipped: test_c::three: no fp8",
    ]


@pytest.mark.slow
def test_all_rows_have_all_their_figures_with_tiny_models(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--out", str(out), "--tests", "draws and uniform"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    records = json.loads(out.with_suffix(".json").read_text())
    found = {(record["part"], record["name"]) for record in records}
    assert found == {(row.part, row.name) for row in ROWS}
    text = out.read_text()
    assert "failed:" not in text and "Not measured" not in text
    assert "its figures mean nothing" in text
    some = {"memory", "times", "apart", "trimmed", "compiled", "batch", "tuning"}
    for record in records:
        keys = {column.split(":")[0] for column in COLUMNS[record["part"]].split(", ")}
        for line in record["lines"]:
            assert record["name"] in (PEAK, KERNELS) or keys - some <= line.keys()
