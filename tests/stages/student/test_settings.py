"""What makes a student another one, and what it is trained on all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import make_student_config, write_encoder

from stages.errors import ExportError, SettingError
from stages.records import read_record
from stages.reporter import SilentReporter
from stages.student import stage
from stages.student.stage import run_student
from stages.teacher.stage import TeacherResult

Filled = tuple[Path, TeacherResult]


def train(task: Path, filled: Filled, out: Path, **own: Any) -> tuple[dict[str, Any], list[str]]:
    reporter = SilentReporter()
    run_student(make_student_config(task, filled[0], out, **own), reporter)
    return dict(read_record(out)), reporter.warnings


def test_the_cache_of_another_question_is_used_where_it_is_named(
    filled: Filled, mood: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "mood.yaml"
    for old, new in (("Is this good or bad?", "Which is it?"), ("[Bad", "[Awful, Bad")):
        assert old in mood.read_text()
        changed.write_text(mood.read_text().replace(old, new))
        with pytest.raises(SettingError, match="is of another prompt or other words; name it"):
            train(changed, filled, tmp_path / "a")
        assert not (tmp_path / "a").exists()
    fingerprint = filled[1].cache.fingerprint
    record, _ = train(changed, filled, tmp_path / "a", steps=2, source=(fingerprint,))
    assert record["fingerprint"] == fingerprint


def test_a_step_of_more_rows_than_its_chunks_have_is_told_and_recorded(
    filled: Filled, mood: Path, tmp_path: Path
) -> None:
    chunk = filled[1].cache.layout.chunk_rows
    own = {"steps": 2, "lengths_per_batch": 2}
    record, warned = train(mood, filled, tmp_path / "a", batch_size=8 * chunk, **own)
    assert record["training"]["batch_size"] == 2 * chunk
    assert any(f"a step takes {2 * chunk} rows, not {8 * chunk}" in line for line in warned)
    record, warned = train(mood, filled, tmp_path / "b", batch_size=2 * chunk, **own)
    assert record["training"]["batch_size"] == 2 * chunk
    assert not any("a step takes" in line for line in warned)


def test_other_weights_in_the_same_directory_are_another_encoder(
    filled: Filled, mood: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path / "enc", "roberta")
    own = {"arch": str(encoder), "steps": 2}
    first, _ = train(mood, filled, tmp_path / "a", **own)
    again, _ = train(mood, filled, tmp_path / "a", **own)
    assert again == first
    config = encoder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_dropout_prob": 0.3}))
    third, _ = train(mood, filled, tmp_path / "a", **own)
    assert third["identity"] != first["identity"]


def test_another_processor_s_rounding_of_the_prior_is_no_other_student(
    filled: Filled, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = train(mood, filled, tmp_path / "a", steps=2, prior="balanced")
    open_answers = stage.open_cached_answers

    def open_otherwise(*given: Any) -> Any:
        data = open_answers(*given)
        assert data.prior is not None
        biases = tuple(bias * (1 + 1e-15) for bias in data.prior.biases)
        assert biases != data.prior.biases
        object.__setattr__(data.prior, "biases", biases)
        return data

    monkeypatch.setattr(stage, "open_cached_answers", open_otherwise)
    again, _ = train(mood, filled, tmp_path / "a", steps=2, prior="balanced")
    assert again == first


def test_the_directory_that_one_is_in_is_refused_before_training(
    filled: Filled, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="is the working directory; choose another"):
        train(mood, filled, Path())
    assert not [*tmp_path.iterdir()]
