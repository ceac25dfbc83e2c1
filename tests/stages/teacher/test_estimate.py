from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from tiny import Stopping, make_teacher_config

from stages.reporter import Interrupted, SilentReporter
from stages.teacher import estimate
from stages.teacher.estimate import estimate_teacher
from stages.teacher.stage import TeacherResult, run_teacher


def test_a_dry_run_measures_and_writes_nothing(llm: Path, mood: Path, tmp_path: Path) -> None:
    reporter = SilentReporter()
    config = make_teacher_config(mood, llm, tmp_path / "cache", batch_positions=None)
    found = estimate_teacher(config, reporter)
    assert not (tmp_path / "cache").exists()
    assert (found.rows, found.rows_there) == (200, 0)
    assert 0 < found.measured_rows <= 200
    assert found.rows_per_second > 0
    assert found.seconds == pytest.approx(200 / found.rows_per_second)
    said = "\n".join(reporter.lines)
    assert f"batch: {found.batch_positions:,} positions, measured to be fastest" in said
    assert "label bad: Bad → ĠBad, Poor → ĠPoor" in said
    assert "forward pass: the prompt is run once" in said


def test_what_is_estimated_is_what_is_written(
    llm: Path, mood: Path, filled: tuple[Path, TeacherResult], tmp_path: Path
) -> None:
    config = make_teacher_config(mood, llm, filled[0])
    found = estimate_teacher(config, SilentReporter())
    assert found.directory == str(filled[1].cache.place)
    assert (found.rows_there, found.seconds) == (200, 0)
    written = sum(size for path, size in filled[1].cache.files.walk() if "tokenizer" not in path)
    # Commit records, zarr's own files and checksums are not counted, and are small in any real run.
    assert found.bytes < written < found.bytes + 40_000


def test_every_sampler_and_texts_can_be_estimated(llm: Path, mood: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Good film\n\nBad\nPoor, poor\n")
    for own in ({"sampler": "unigram"}, {"sampler": "uniform"}, {"texts": texts}):
        config = make_teacher_config(mood, llm, tmp_path / "cache", **own)
        found = estimate_teacher(config, SilentReporter())
        assert found.batch_positions == 512
        assert found.rows == (3 if "texts" in own else 200)
        assert found.measured_rows == 3 or "texts" not in own


def test_time_is_that_of_the_rows_that_are_missing(
    llm: Path, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_teacher_config(mood, llm, tmp_path)
    with pytest.raises(Interrupted):
        run_teacher(config, Stopping(lambda: any(tmp_path.glob("mood/*/commits/*2.json"))))
    # A clock that ticks once a look: what is measured is then a matter of counting.
    ticks: Any = itertools.count()
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: float(next(ticks)))
    found = estimate_teacher(config, SilentReporter())
    assert 32 * 3 <= found.rows_there < 200
    missing = found.rows - found.rows_there
    assert found.seconds == pytest.approx(missing / found.rows_per_second)
