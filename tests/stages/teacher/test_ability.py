"""Whether a model can do a task, by texts that it wrote for the labels itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from processes import run_here
from tiny import MOOD, make_teacher_config

from stages.inputs import SelfGenerated, read_self_generated
from stages.reporter import SilentReporter
from stages.teacher import run_teacher
from stages.teacher.ability import Ability, judge_ability

NAMES = ("a", "b", "c", "d")


def make_texts(
    rng: np.random.Generator, known: float, lean: float, rows: int = 4000
) -> SelfGenerated:
    """Texts whose label is known to a share of them, the rest guessed; all lean to the first."""
    labels = rng.integers(0, 4, rows)
    believed = np.where(rng.random(rows) < known, labels, rng.integers(0, 4, rows))
    logits = rng.normal(0, 0.1, (rows, 4)) + 2 * np.eye(4)[believed] + np.eye(4)[0] * lean
    tokens = np.zeros((rows, 1), dtype=np.int32)
    return SelfGenerated(tokens, tokens[:, 0] + 1, logits.astype(np.float32), labels)


def judge(texts: SelfGenerated, lean: float) -> Ability | None:
    logits = np.random.default_rng(1).normal(0, 0.1, (300, 4)) + np.eye(4)[0] * lean
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = {"probabilities": probabilities, "seed": np.arange(300, dtype=np.uint64)}
    return judge_ability(texts, rows, "unigram", NAMES)


@pytest.mark.parametrize(
    ("known", "level"), [(0.8, "fine"), (0.3, "fine"), (0.12, "doubtful"), (0.0, "hopeless")]
)
@pytest.mark.parametrize("lean", [0.0, 5.0])
def test_what_is_known_counts_with_the_leaning_taken_off(
    known: float, level: str, lean: float
) -> None:
    found = judge(make_texts(np.random.default_rng(0), known, lean), lean)
    assert found is not None and found.level == level
    assert found.reason.startswith(
        "of 4,000 texts that it wrote for a label each, the teacher gives"
    )
    assert "where guessing would to 25%" in found.reason
    assert ("another prompt" in found.reason) == (level != "fine")
    if lean and known:
        # As it answers it gives one label to all, whatever it knows.
        assert 15 < float(found.reason.split("left in to ")[1].split("%")[0]) < 35


def test_a_label_that_is_never_given_is_named_and_texts_of_no_label_say_nothing() -> None:
    texts = make_texts(np.random.default_rng(0), 1.0, 0.0)
    assert judge(SelfGenerated(texts.tokens, texts.lengths, texts.logits), 0.0) is None
    texts.logits[:, 3] = -9
    found = judge(texts, 0.0)
    assert found is not None and found.level == "doubtful"
    assert "and never gives 'd'" in found.reason


def test_a_run_keeps_the_labels_and_says_what_it_found(llm: Path, tmp_path: Path) -> None:
    task = tmp_path / "mood.yaml"
    task.write_text(f'{MOOD}write: "A text that is called {{label}}:\\n"\n')
    reporter = SilentReporter()
    config = make_teacher_config(task, llm, tmp_path / "cache", self_generated=40)
    texts = read_self_generated(run_teacher(config, reporter).cache)
    assert texts is not None and texts.labels is not None
    assert {*texts.labels.tolist()} == {0, 1} and len(texts.labels) == len(texts.tokens) == 40
    said = [x for x in (*reporter.lines, *reporter.warnings) if x.startswith("verdict on its own")]
    assert len(said) == 2  # before the rows are paid for, and with the prior of them all
    assert "of 40 texts that it wrote for a label each" in said[0]
    command = ["teacher", "--task", task, "--model", llm, "--cache", tmp_path / "other"]
    command += ["--rows", 64, "--self-generated", 40, "--batch-positions", 512, "--dry-run"]
    shown = run_here(*command)
    assert shown.code == 0
    assert "\ntexts:   " in shown.out and "of 40 texts that it wrote" in shown.out
