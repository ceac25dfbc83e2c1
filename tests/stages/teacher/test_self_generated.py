from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import Stopping, make_student_config, make_teacher_config

from cache.directory import Cache
from cache.errors import DamageError
from stages.classify.loading import load_classifier
from stages.evaluate.held_out import measure_held_out
from stages.inputs.attachments import SELF_GENERATED_FILE, read_self_generated
from stages.records import read_record
from stages.reporter import Interrupted, SilentReporter
from stages.student.stage import run_student
from stages.teacher.stage import run_teacher


@pytest.fixture(scope="module")
def cache(mood: Path, llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    config = make_teacher_config(mood, llm, tmp_path_factory.mktemp("own"), self_generated=50)
    return run_teacher(config, SilentReporter()).cache


@pytest.fixture
def root(cache: Cache) -> Path:
    return Path(str(cache.place)).parents[1]


def test_a_cache_keeps_texts_and_what_the_teacher_answers(cache: Cache) -> None:
    own = read_self_generated(cache)
    assert own is not None and own.tokens.shape == (50, 12) and own.logits.shape == (50, 2)
    assert ((own.tokens >= 0).sum(axis=1) == own.lengths).all() and own.lengths.min() >= 1
    theirs = own.logits.argmax(axis=1)
    by_row = {tuple(row[row >= 0].tolist()): k for row, k in zip(own.tokens, theirs, strict=True)}
    answer = lambda ids: np.eye(2)[[by_row[tuple(row)] for row in ids.tolist()]]  # noqa: E731
    assert own.measure(answer).value == 1.0
    assert own.measure(lambda ids: 1 - answer(ids)).value == 0.0


def test_texts_are_no_part_of_the_identity(cache: Cache, mood: Path, llm: Path, root: Path) -> None:
    config = make_teacher_config(mood, llm, root, self_generated=0)
    reporter = SilentReporter()
    again = run_teacher(config, reporter)
    assert again.computed == 0 and again.cache.fingerprint == cache.fingerprint
    (line,) = [line for line in reporter.lines if line.startswith("self-generated texts: ")]
    assert line.startswith("self-generated texts: 50, as this cache was created with, instead of 0")
    assert float(cache.manifest.notes["seconds"]) > 0


def test_a_student_is_measured_on_them(cache: Cache, mood: Path, root: Path) -> None:
    reporter = SilentReporter()
    result = run_student(make_student_config(mood, root, root / "student"), reporter)
    assert result.self_generated is not None and result.self_generated.rows == 50
    (line,) = [line for line in reporter.lines if line.startswith("self-generated texts: ")]
    assert f"agrees in {result.self_generated}" in line
    record = read_record(result.out)
    largest = record["self_generated"].pop("largest_class")
    assert record["self_generated"] == json.loads(json.dumps(result.self_generated.to_record()))
    own = read_self_generated(cache)
    assert own is not None and largest == own.largest_class >= 0.5
    always = np.eye(2)[[int(own.logits.argmax(axis=1).sum() * 2 > 50)]]
    assert own.measure(lambda ids: always.repeat(len(ids), axis=0)).value == largest
    assert record["held_out_interval"] == list(result.projection.agreement_share.interval)
    assert "texts that the teacher wrote itself" in (result.out / "README.md").read_text()
    # The written student, read back, does the same, but for rounding.
    *_, share = measure_held_out(result.out, load_classifier(result.out, "cpu"), root, reporter)
    assert share is not None
    assert abs(share.value - result.self_generated.value) <= 0.02


def test_texts_that_were_changed_are_refused(mood: Path, llm: Path, tmp_path: Path) -> None:
    config = make_teacher_config(mood, llm, tmp_path, self_generated=5)
    own = run_teacher(config, SilentReporter()).cache
    path = Path(str(own.place)) / "attachments" / SELF_GENERATED_FILE
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamageError, match=SELF_GENERATED_FILE):
        read_self_generated(own)
    path.unlink()  # what is lost is made again as it was, whatever is asked for by now
    fewer = make_teacher_config(mood, llm, tmp_path, self_generated=0)
    assert read_self_generated(run_teacher(fewer, SilentReporter()).cache) is not None
    assert path.read_bytes() == data


def test_a_cache_that_is_continued_is_judged_by_its_rows(
    mood: Path, llm: Path, tmp_path: Path
) -> None:
    config = make_teacher_config(mood, llm, tmp_path, self_generated=3)
    cache = run_teacher(config, SilentReporter()).cache
    Path(str(cache.place), "commits", "000002.json").unlink()
    reporter = SilentReporter()
    assert run_teacher(config, reporter).computed == 32
    said = reporter.lines + reporter.warnings
    assert sum("no sample is answered" in line for line in said) == 1
    assert [sum(f"verdict on {n} rows: " in line for line in said) for n in (168, 200)] == [1, 1]
    assert not [line for line in said if line.startswith("self-generated texts: ")]


def test_a_stop_while_writing_leaves_nothing_and_no_texts_are_as_good(
    mood: Path, llm: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run_teacher(make_teacher_config(mood, llm, tmp_path, self_generated=5), Stopping())
    assert not list(tmp_path.rglob("manifest.json"))
    config = make_teacher_config(mood, llm, tmp_path)
    assert read_self_generated(run_teacher(config, SilentReporter()).cache) is None
    result = run_student(make_student_config(mood, tmp_path, tmp_path / "s"), SilentReporter())
    assert result.self_generated is None and read_record(result.out)["self_generated"] is None
