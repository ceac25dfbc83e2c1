"""A task that is asked in several ways: one cache a prompt, the same rows, one student."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import run_here
from tiny import MOOD, read_rows

from cache.directory import Cache
from cache.lookup import list_usable
from stages.errors import TaskError
from stages.metrics import average_answers, fit_prior
from stages.records import read_record
from stages.tasks import load_task
from stages.teacher import fill

PROMPTS = '["Is this good or bad?\\n", "Say how a text is.\\n"]'
SUFFIXES = 'suffix: ["\\nAnswer:", "\\nIt is"]'
TWO = MOOD.replace(
    'prompt: "Is this good or bad?\\n"\nsuffix: "\\nAnswer:"', f"prompt: {PROMPTS}\n{SUFFIXES}"
)
FILL = ("--rows", 96, "--chunk-rows", 16, "--shard-rows", 48, "--self-generated", 4)
FILL += ("--batch-positions", 512)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "mood.yaml"
    path.write_text(TWO)
    return path


@pytest.fixture(scope="module")
def root(two: Path, mood: Path, llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both prompts answered, the second one added later, which leaves the first one's cache."""
    root = tmp_path_factory.mktemp("prompts")
    command = ("teacher", "--model", llm, "--cache", root, *FILL, "--task")
    assert run_here(*command, mood).code == 0
    (before,) = list_caches(root)
    done = run_here(*command, two, "--summary", root / "summary.json")
    assert done.code == 0, done.err
    assert "every row was there already" in done.err
    assert before.fingerprint in [it.fingerprint for it in list_caches(root)]
    return root


def train(out: Path, root: Path, *more: object) -> tuple[int, str]:
    done = run_here(
        *("student", "--arch", "mini", "--cache", root, "--out", out, "--steps", 4, *more),
        *("--prior", "balanced"),
        *("--batch-size", 16, "--lengths-per-batch", 2, "--held-out-rows", 16),
    )
    return done.code, done.err


def list_caches(root: Path) -> list[Cache]:
    """In the order of the prompts: caches of one second have none of their own."""
    found = list_usable(root, "mood", False)
    return sorted(found, key=lambda it: str(it.manifest.inputs["task"]["suffix"]))


def test_each_prompt_has_a_cache_of_the_same_rows(root: Path) -> None:
    caches = list_caches(root)
    assert [it.manifest.inputs["task"]["suffix"] for it in caches] == ["\nAnswer:", "\nIt is"]
    first, second = map(read_rows, caches)
    for name in ("seed", "length"):
        assert (first[name] == second[name]).all()
    assert (first["probabilities"] != second["probabilities"]).any()
    thresholds = [
        [it.read_attachment(name) for name in it.manifest.attachments if "threshold" in name]
        for it in caches
    ]
    assert thresholds[0] and thresholds[0] == thresholds[1]
    summary = json.loads((root / "summary.json").read_text())
    assert [it["fingerprint"] for it in summary["prompts"]] == [it.fingerprint for it in caches]


def test_a_student_has_the_average_without_the_prior(
    two: Path, root: Path, llm: Path, tmp_path: Path
) -> None:
    code, said = train(tmp_path / "a", root, "--task", two)
    assert code == 0, said
    caches = list_caches(root)
    prints = [it.fingerprint for it in caches]
    record = read_record(tmp_path / "a")
    assert record["averaged"] == prints
    assert record["task"]["others"] == [["Say how a text is.\n", "\nIt is"]]
    answers = [read_rows(it)["probabilities"].astype(np.float64) for it in caches]
    logits = np.mean([np.log(each) for each in answers], axis=0)
    average = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert average_answers(answers) == pytest.approx(average, abs=1e-6)
    assert record["prior"]["biases"] == pytest.approx(
        fit_prior(average.astype(np.float32)).biases, abs=1e-3
    )
    assert "Say how a text is." in (tmp_path / "a/README.md").read_text()
    code, said = train(tmp_path / "b", root, "--from", prints[0][:16], "--from", prints[1][:16])
    assert code == 0, said
    code, said = train(tmp_path / "c", root, "--from", root / "summary.json")
    assert code == 0, said
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] == weights[2]
    held = run_here("evaluate", "--model", tmp_path / "a", "--cache", root, "--json")
    assert held.code == 0, held.err
    found = json.loads(held.out)["held_out"]["centred_angle"]
    assert found == pytest.approx(record["held_out"]["centred_angle"], abs=1e-3)
    # A teacher is measured with all prompts.
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a good one", "label": "good"}\n' * 3)
    measured = run_here("evaluate", "--teacher", llm, "--task", two, "--data", texts, "--json")
    assert (measured.code, measured.err.count("score of a word")) == (0, 2), measured.err


def test_caches_of_other_rows_are_not_averaged(
    two: Path, root: Path, llm: Path, tmp_path: Path
) -> None:
    prints = [it.fingerprint[:16] for it in list_caches(root)]
    code, said = train(tmp_path / "a", root, "--from", prints[0], "--from", prints[0])
    assert code == 2 and "they are the same" in said
    other = tmp_path / "other"
    done = run_here("teacher", "--task", two, "--model", llm, "--cache", other, *FILL, "--seed", 1)
    assert done.code == 0
    places = [str(it.place) for it in (*list_caches(root)[:1], *list_caches(other)[1:])]
    code, said = train(tmp_path / "a", root, "--from", places[0], "--from", places[1])
    assert code == 2 and "differ in random inputs; several must be of the same rows" in said
    list_caches(other)[1].place.path.rename(tmp_path / "away")  # type: ignore[attr-defined]
    code, said = train(tmp_path / "a", other, "--task", two)
    assert code == 2 and "prompt 2 of 2 of the task mood" in said and "has 0 complete" in said
    assert not (tmp_path / "a").exists()


def test_a_teacher_s_prior_is_found_on_the_same_rows_of_each_prompt(
    two: Path, root: Path, mood: Path, llm: Path, tmp_path: Path
) -> None:
    """The newest of each may be of another seed: then none is known."""
    shutil.copytree(root, tmp_path / "cache")
    command = ("teacher", "--task", mood, "--model", llm, *FILL, "--seed", 1)
    time.sleep(1.1)  # the newest, by the second
    done = run_here(*command, "--cache", tmp_path / "cache")
    assert done.code == 0, done.err
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a good one", "label": "good"}\n' * 3)
    measure = ("evaluate", "--teacher", llm, "--task", two, "--data", texts, "--cache")
    assert "prior: not known" not in run_here(*measure, root).err
    done = run_here(*measure, tmp_path / "cache")
    assert (done.code, "prior: not known" in done.err) == (0, True), done.err


def test_a_summary_without_prompts_is_named(two: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"prompts": []}')
    code, said = train(tmp_path / "a", root, "--task", two, "--from", tmp_path / "s.json")
    assert (code, "s.json" in said) == (2, True), said


def test_texts_are_written_once_for_all_prompts(
    llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many stood side by side: other rounding, other words."""
    task, root = tmp_path / "mood.yaml", tmp_path / "cache"
    task.write_text(f'{TWO}write: "A text that is called {{label}}:\\n"\n')
    command = ("teacher", "--task", task, "--model", llm, *FILL, "--temperature", 4, "--cache")
    assert run_here(*command, root).code == 0
    first, second = map(read_rows, list_caches(root))
    assert (first["tokens"] == second["tokens"]).all() and (first["tokens"] < 0).any()
    assert (first["seed"] == second["seed"]).all()
    # Where they were written anew, with other words.
    write = fill.write_texts

    def write_other(*given: Any) -> Any:
        texts = write(*given)
        texts[:, 0] = (texts[:, 0] + 1) % 40
        return texts

    monkeypatch.setattr(fill, "write_texts", write_other)
    other = tmp_path / "other"
    assert run_here(*command, other).code == 0
    places = [str(it.place) for it in (list_caches(root)[0], list_caches(other)[1])]
    assert train(tmp_path / "a", root, "--task", task)[0] == 0
    code, said = train(tmp_path / "b", root, "--from", places[0], "--from", places[1])
    assert code == 1 and "hold other texts in the same rows" in said
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (SUFFIXES, 'suffix: ["a"]', "got 1 for 2 prompt(s)"),
        ('"Say how a text is.\\n"]', '""]', "the prompt is empty"),
        ('"Say how a text is.\\n"]', "[]]", "must be text"),
        ("max_length", "prior: bad=0.2\nmax_length", "has no share for good"),
        ("max_length", "prior: {bad: 0.2, good: 0.9}\nmax_length", "sum to 1.1, must sum to 1"),
        (f"{PROMPTS}\n{SUFFIXES}", "[a, a]", "one is given twice"),
        (PROMPTS, "[]", "got an empty list"),
    ],
)
def test_what_is_wrong_with_prompts_is_said(
    before: str, after: str, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    assert before in TWO
    path.write_text(TWO.replace(before, after))
    with pytest.raises(TaskError, match=r"mine\.yaml") as error:
        load_task(str(path))
    assert fault in str(error.value)


def test_one_suffix_is_for_all_prompts_and_shares_are_the_task_s(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TWO.replace(SUFFIXES, 'suffix: "\\nSo:"\nprior: {bad: 0.2, good: 0.8}'))
    task = load_task(str(path))
    assert [each.suffix for each in task.split()] == ["\nSo:", "\nSo:"]
    assert task.prior == "bad=0.2,good=0.8"
    assert run_here("task", "show", path).out.count("prompt:") == 2
    assert run_here("task", "check", path).out.count("<input>") == 2
