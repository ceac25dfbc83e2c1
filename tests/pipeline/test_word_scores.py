from __future__ import annotations

import json
from pathlib import Path

from processes import run_here
from tiny import MOOD, make_student_config, make_teacher_config, read_rows

from cache.directory import Cache
from stages.records import read_record
from stages.reporter import SilentReporter
from stages.student.stage import run_student
from stages.tasks import load_task, restore_task
from stages.teacher.stage import run_teacher

WHOLE = MOOD.replace("[Bad, Poor]", "[Bad, Qjx]").replace("[Good, Great]", "[Good, Qjz]")


def fill(task: Path, llm: Path, root: Path) -> Cache:
    return run_teacher(make_teacher_config(task, llm, root), SilentReporter()).cache


def test_a_task_says_how_words_are_scored_and_so_does_what_follows(
    llm: Path, tmp_path: Path
) -> None:
    task, root, out = tmp_path / "mood.yaml", tmp_path / "cache", tmp_path / "student"
    task.write_text(WHOLE.split("word_score")[0])  # as by default
    shown = run_here("task", "show", task).out
    assert "word_score: whole\nlabel_score: sum\n" in shown
    assert json.loads(run_here("task", "show", task, "--json").out)["word_score"] == "whole"
    checked = run_here("task", "check", task, "--model", llm)
    assert "score of a word: all its tokens" in checked.err and "the sum over" in checked.err
    assert "stands for it" not in checked.err
    cache = fill(task, llm, root)
    described = cache.manifest.inputs["task"]
    assert (described["word_score"], described["label_score"]) == ("whole", "sum")
    (word, spellings) = described["labels"][0]["words"][1]
    assert word == "Qjx" and len(spellings[0]) > 1
    first = tmp_path / "first" / "mood.yaml"
    first.parent.mkdir()
    first.write_text(MOOD)
    other = fill(first, llm, root)
    assert other.fingerprint != cache.fingerprint
    assert "word_score" not in other.manifest.inputs["task"]
    assert (read_rows(other)["probabilities"] != read_rows(cache)["probabilities"]).any()
    run_student(make_student_config(task, root, out, source=(cache.fingerprint,)), SilentReporter())
    assert read_record(out)["task"] == described
    assert "| score of a word, of a label | whole, sum |" in (out / "README.md").read_text()
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a good one", "label": "good"}\n' * 3)
    measured = run_here("evaluate", "--model", out, "--data", texts, "--teacher", llm, "--json")
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)["teacher_scores"] == "whole, sum"
    assert "score of a word: all its tokens" in measured.err


def test_the_paper_s_way_is_told_and_a_task_s_own_default_is_whole_words(
    student: Path, llm: Path
) -> None:
    assert (
        "| score of a word, of a label | first-token, max |" in (student / "README.md").read_text()
    )
    task = load_task("imdb")
    assert (task.word_score, task.label_score) == ("whole", "sum")
    said = run_here("task", "check", "imdb", "--model", llm).err
    assert "score of a word: all its tokens" in said and "of a label: the sum over" in said


def test_a_cache_that_does_not_say_it_is_of_first_tokens() -> None:
    described = load_task("imdb").describe()
    del described["word_score"], described["label_score"]
    task = restore_task(described, "an older cache")
    assert (task.word_score, task.label_score) == ("first-token", "max")
