"""`pipeline task tune`: ways of asking, ranked by texts that the model wrote for the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import Result, run_here
from tiny import MOOD

VARIANTS = """\
- labels: {bad: [Good, Great], good: [Bad, Poor]}
- prompt: "Is it {labels}?\\n"
- {suffix: "\\nIt is", labels: {bad: [Bad], good: [Bad]}}
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "mood.yaml"
    path.write_text(MOOD + 'write: "A {label} text:\\n"\n')
    return path


def tune(task: Path, model: Path, variants: str, *more: object) -> Result:
    path = task.with_name("variants.yaml")
    path.write_text(variants)
    options = ("--texts", 24, "--rows", 16, "--variants", path, *more)
    return run_here("task", "tune", "--task", task, "--model", model, *options)


def find(rows: list[dict[str, Any]], words: str, prior: str) -> float:
    (found,) = (
        each["accuracy"]
        for each in rows
        if each["labels"]["bad"][0] == words
        and each["prompt"].startswith("Is this")
        and each["prior"] == prior
    )
    return float(found)


def test_every_way_of_asking_is_ranked(asked: Path, llm: Path) -> None:
    done = tune(asked, llm, VARIANTS.rsplit("- ", 1)[0], "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert len(rows) == 6
    accuracies = [each["accuracy"] for each in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {each["prompt"] for each in rows} == {"Is this good or bad?\n", "Is it bad or good?\n"}
    # With the words of the labels exchanged every answer is the other one.
    for prior in ("none", "balanced"):
        assert find(rows, "Bad", prior) + find(rows, "Good", prior) == pytest.approx(1)
    again = tune(asked, llm, VARIANTS.rsplit("- ", 1)[0], "--json")
    assert json.loads(again.out) == rows


def test_the_best_is_told_as_a_task_has_it(asked: Path, llm: Path, tmp_path: Path) -> None:
    done = tune(asked, llm, "[]")
    lines = done.out.splitlines()
    keys = ["prompt", "suffix", "prior", "word_score", "label_score", "labels"]
    assert [line.split(":")[0] for line in lines[2:]] == keys
    assert all("first-token, max" in line for line in lines[:2])
    best = tmp_path / "best.yaml"
    best.write_text("\n".join([*lines[2:], "max_length: 12"]))
    assert run_here("task", "check", best, "--model", llm).code == 0


@pytest.mark.parametrize(
    ("variants", "fault"),
    [
        ("prompt: a", "must be a list of mappings"),
        ("- max_length: 3", "variant 1: 'max_length' is none of the keys prompt, suffix, labels"),
        ("- {prompt: a}\n- labels: {bad: [Bad]}", "variant 2: got 1 label"),
        (
            "- labels: {worse: [Bad], good: [Good]}",
            "must be one prompt and suffix, of the labels 'bad', 'good', in order",
        ),
        ("- labels: {good: [Good], bad: [Bad]}", "of the labels 'bad', 'good', in order"),
        ("- prompt: [a, b]", "must be one prompt"),
        ("- prompt: ['Is it {labels}?']", "must be one prompt and suffix"),
    ],
)
def test_a_variant_that_is_none_is_refused(
    asked: Path, llm: Path, variants: str, fault: str
) -> None:
    done = tune(asked, llm, variants)
    assert done.code == 2
    assert fault in done.err and len(done.err.splitlines()) == 1


def test_a_variant_that_a_tokenizer_cannot_tell_apart_is_left_out(asked: Path, llm: Path) -> None:
    variants = "- labels: {bad: [Goodness], good: [Good]}\n  word_score: whole"
    done = tune(asked, llm, variants, "--json")
    assert done.code == 0, done.err
    assert "left out: task mood: the labels" in done.err
    assert len(json.loads(done.out)) == 2


def test_a_way_that_the_model_has_no_room_for_is_left_out(asked: Path, llm: Path) -> None:
    done = tune(asked, llm, f'- prompt: "{"Is it good or bad? " * 90}"', "--json")
    assert done.code == 0, done.err
    assert "left out: " in done.err and "shorten the prompt" in done.err
    assert len(json.loads(done.out)) == 2


def test_texts_of_one_label_alone_rank_nothing(asked: Path, llm: Path) -> None:
    done = tune(asked, llm, "[]", "--texts", 1)
    assert (done.code, "texts: 1 are not of every label" in done.err) == (2, True), done.err


def test_texts_need_a_place_for_the_label(mood: Path, llm: Path, tmp_path: Path) -> None:
    path = tmp_path / "mood.yaml"
    path.write_text(MOOD + 'write: "A text:\\n"\n')
    done = tune(path, llm, "[]")
    assert done.code == 2
    assert "names no label" in done.err


def test_an_order_by_texts_that_say_nothing_is_warned_of(asked: Path, llm: Path) -> None:
    """A random model writes texts of no label."""
    assert "this order says little" in tune(asked, llm, "[]").err
