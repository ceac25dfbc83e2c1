"""The prior in stage two: asked for, found on the cache, told, and taken off everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import run_here
from tiny import make_student_config, make_teacher_config

from cache.reader import CacheReader
from stages.errors import SettingError
from stages.evaluate import EvaluationConfig, evaluate
from stages.inputs import SelfGenerated, find_drawn, find_objection
from stages.metrics import Prior, fit_prior
from stages.records import read_record
from stages.reporter import SilentReporter
from stages.student import prior, run_student
from stages.tasks import parse_shares
from stages.teacher import run_teacher

Filled = tuple[Path, Any]
LABELS = ("World", "Sports", "a=b")


def read_answers(filled: Filled) -> np.ndarray:
    reader = CacheReader(filled[1].cache)
    return np.concatenate([reader.read_shard(k)["probabilities"] for k in reader.shards])


def test_it_is_found_on_all_cached_rows_and_taken_off(
    filled: Filled, mood: Path, tmp_path: Path
) -> None:
    reporter = SilentReporter()
    config = make_student_config(mood, filled[0], tmp_path / "out", prior="balanced")
    found = run_student(config, reporter).projection
    wanted = fit_prior(read_answers(filled))
    record = read_record(tmp_path / "out")
    assert record["prior"]["biases"] == pytest.approx(wanted.biases)
    assert record["prior"]["rows"] == len(read_answers(filled))
    assert any(line.startswith("prior taken off: bad ") for line in reporter.lines)
    assert any(line.startswith("with the prior put back: agreement ") for line in reporter.lines)
    assert 0 <= record["prior_included"]["agreement"] <= 1
    assert "prior taken off the teacher" in (tmp_path / "out/README.md").read_text()
    # The cached answers stay; who reads them later takes the same off.
    asked = EvaluationConfig(model=tmp_path / "out", cache=filled[0])
    again = evaluate(asked, SilentReporter()).held_out
    assert again is not None
    assert again.centred_angle == pytest.approx(found.centred_angle, abs=1e-3)
    # Of a teacher that leans, nothing is left of the leaning.
    assert np.abs(np.subtract(wanted.given, 0.5)).max() > 0.02, "no leaning proves nothing"


def test_another_prior_is_another_student(filled: Filled, mood: Path, tmp_path: Path) -> None:
    identities = set()
    for asked in ("balanced", "none", "bad=0.3,good=0.7"):
        config = make_student_config(mood, filled[0], tmp_path / "out", prior=asked, steps=2)
        run_student(config, SilentReporter())
        record = read_record(tmp_path / "out")
        identities.add(record["identity"])
        assert (record["prior"] is None) == (asked == "none")
    assert record["prior"]["shares"] == pytest.approx((0.3, 0.7))
    assert len(identities) == 3
    reporter = SilentReporter()
    run_student(config, reporter)
    assert any("with these very settings" in line for line in reporter.lines)


def test_a_teacher_is_told_with_and_without_it(
    filled: Filled, student: Path, mood: Path, llm: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\ngood film,good\na b c,good\nbad,bad\nx,good\n")
    command = ("evaluate", "--data", rows, "--teacher", llm)
    done = run_here(*command, "--model", student, "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert data["teacher"]["classes"].keys() == data["teacher_without_prior"]["classes"].keys()
    table = run_here(*command, "--model", student).out
    for name in ("teacher", "teacher_without_prior"):
        title = name.replace("_without", " without its")
        assert f"{title.replace('_', ' ')}: accuracy {data[name]['accuracy']:.2%}" in table
    # Alone, with that of its cache.
    command += ("--task", mood, "--json", "--cache")
    alone = json.loads(run_here(*command, filled[0]).out)
    assert "accuracy" in alone["teacher_without_prior"]
    none = run_here(*command, tmp_path / "none")
    assert "teacher_without_prior" not in json.loads(none.out)
    assert "measured as it answers" in none.err


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("ballanced", "got 'ballanced' in 'ballanced', must be auto, balanced, none, or one share"),
        ("World=0.5,Sport=0.5", "did you mean Sports?"),
        ("World=0.5,Sports=0.5", "has no share for a=b"),
        ("World=0.5,World=0.2,Sports=0.3,a=b=0.1", "got 'World=0.2'"),
        ("World=0.5,Sports=0.2,a=b=0.1", "sum to 0.8, must sum to 1"),
        ("World=x,Sports=0.2,a=b=0.1", "got 'x' for World, must be in (0, 1]"),
        ("World=nan,Sports=0.2,a=b=0.8", "got 'nan' for World"),
    ],
)
def test_shares_are_read_in_any_order_and_those_that_are_none_are_named(
    asked: str, says: str
) -> None:
    with pytest.raises(SettingError) as caught:
        parse_shares(asked, LABELS)
    assert says in str(caught.value)
    assert parse_shares("a=b=0.2, Sports = 0.3,World=0.5", LABELS) == (0.5, 0.3, 0.2)
    assert parse_shares("yes, sure=0.4,no = 0.6", ("no", "yes, sure")) == (0.6, 0.4)
    assert parse_shares("none", LABELS) is None
    assert parse_shares("balanced", LABELS) == (1 / 3,) * 3 == parse_shares("auto", LABELS)


def test_labels_that_people_gave_have_none(mood: Path, tmp_path: Path) -> None:
    texts = {"labels": "gold", "texts": tmp_path / "x.jsonl"}
    with pytest.raises(SettingError, match="labels gold are no teacher's answers"):
        make_student_config(mood, tmp_path, tmp_path / "out", prior="balanced", **texts)


@pytest.mark.parametrize("content", [-1.0, 1.0])
def test_unasked_it_is_taken_off_where_rows_are_without_content(
    filled: Filled, content: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.metrics.prior.CONTENT", content)
    readers, reporter = [CacheReader(filled[1].cache)], SilentReporter()
    found = prior.find_prior(readers, "auto", ("bad", "good"), reporter)
    assert (found is None) == (content < 0)
    told = "none is taken off, as the answers tell" if found is None else "taken off"
    assert told in " ".join(reporter.lines)


@pytest.mark.parametrize("right", [0.0, 0.52, 1.0])
def test_unasked_it_stays_where_the_model_s_own_texts_speak_against_taking_it_off(
    right: float, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that the leaning decides: towards the label of all, of none, or of half, by chance."""
    monkeypatch.setattr("stages.metrics.prior.CONTENT", 1.0)
    readers, names = [CacheReader(filled[1].cache)], ("bad", "good")
    biases = np.array(fit_prior(read_answers(filled)).biases)
    away = int(biases.argmin()), int(biases.argmax())
    logits = np.tile(biases / 2, (50, 1)).astype(np.float32)
    tokens = np.zeros((50, 1), dtype=np.int32)
    labels = np.where(np.arange(50) < 50 * right, away[1], away[0])
    own = SelfGenerated(tokens, tokens[:, 0] + 1, logits, labels)
    monkeypatch.setattr(prior, "read_self_generated", lambda _: own)
    reporter = SilentReporter()
    found = prior.find_prior(readers, "auto", names, reporter)
    assert (found is None) == (right == 1)
    told = " ".join(reporter.lines)
    assert ("names the label of fewer texts that it wrote for one" in told) == (right == 1)
    assert prior.find_prior(readers, "balanced", names, SilentReporter()) is not None


@pytest.mark.parametrize(
    ("sampler", "content", "lost", "taken"),
    [
        ("self-noisy", 0.1, 100, False),  # half of them, as by guessing
        ("unigram", 0.1, 0, True),
        ("unigram", 0.3, 0, False),
        ("self", 0.3, 0, False),
        ("texts", 0.3, 0, False),
        ("self-noisy", 0.3, 0, True),
        ("self-labelled=0.5,self-noisy=0.5", 0.3, 0, True),
        ("self-noisy=0.5,unigram=0.5", 0.3, 0, False),  # it is found on the drawn rows
        ("self-noisy", 0.3, 3, True),  # by chance
        ("self-noisy", 0.3, 30, False),
        ("unigram", 0.1, 30, False),
    ],
)
def test_a_prior_is_taken_off_rows_that_ask_nothing_or_for_every_label_alike(
    sampler: str, content: float, lost: int, taken: bool
) -> None:
    """Of 200 texts the label of all is named, and without the prior that of so many is not."""
    labels = np.arange(200) % 2
    logits = np.where(labels[:, None] == np.arange(2), 1.0, -1.0).astype(np.float32)
    logits[np.flatnonzero(labels == 0)[:lost]] = [0.01, 0.0]
    tokens = np.zeros((200, 1), dtype=np.int32)
    texts = SelfGenerated(tokens, tokens[:, 0] + 1, logits, labels)
    found = Prior((0.1, -0.1), (0.6, 0.4), (0.5, 0.5), 200, content)
    assert (find_objection(found, sampler, texts) == "") == taken


def test_rows_that_the_model_wrote_do_not_count_where_others_are_drawn(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    mixed = make_teacher_config(mood, llm, tmp_path, sampler="self-labelled=0.7,unigram=0.3")
    reader = CacheReader(run_teacher(mixed, SilentReporter()).cache)
    parts = [reader.read_shard(k) for k in reader.shards]
    answers = np.concatenate([part["probabilities"] for part in parts])
    drawn = find_drawn(mixed.sampler, np.concatenate([part["seed"] for part in parts]))
    assert 0.1 < drawn.mean() < 0.5
    found = prior.find_prior([reader], "balanced", ("bad", "good"), SilentReporter())
    assert found is not None
    assert found.rows == drawn.sum()
    assert found.biases == pytest.approx(fit_prior(answers[drawn]).biases)
    assert found.biases != pytest.approx(fit_prior(answers).biases, abs=1e-4)
    for sampler in ("self", "texts", "unigram", "self=0.999,unigram=0.001"):
        assert find_drawn(sampler, np.arange(8, dtype=np.uint64)).all(), "all are of one kind"
