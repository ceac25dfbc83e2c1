from __future__ import annotations

import json
from pathlib import Path

from processes import run_here
from tiny import MOOD, make_student_config, make_teacher_config, read_rows

from stages.records import read_record
from stages.reporter import SilentReporter
from stages.student.stage import run_student
from stages.tasks import load_task, restore_task
from stages.teacher.stage import TeacherResult, run_teacher

WHOLE = MOOD.replace("[Bad, Poor]", "[Bad, Qjx]").replace("[Good, Great]", "[Good, Qjz]")


def test_a_task_says_how_words_are_scored_and_so_does_what_follows(
    student: Path, filled: tuple[Path, TeacherResult], llm: Path, tmp_path: Path
) -> None:
    task, root, out = tmp_path / "mood.yaml", tmp_path / "cache", tmp_path / "student"
    task.write_text(WHOLE.split("word_score")[0])  # as by default
    assert "word_score: whole\nlabel_score: sum\n" in run_here("task", "show", task).out
    checked = run_here("task", "check", task, "--model", llm)
    assert "score of a word: all its tokens" in checked.err and "the sum over" in checked.err
    assert "stands for it" not in checked.err
    cache = run_teacher(make_teacher_config(task, llm, root), SilentReporter()).cache
    described = cache.manifest.inputs["task"]
    assert (described["word_score"], described["label_score"]) == ("whole", "sum")
    (word, spellings) = described["labels"][0]["words"][1]
    assert word == "Qjx" and len(spellings[0]) > 1
    other = filled[1].cache
    assert "word_score" not in other.manifest.inputs["task"]
    assert (read_rows(other)["seed"] == read_rows(cache)["seed"]).all()
    assert (read_rows(other)["probabilities"] != read_rows(cache)["probabilities"]).any()
    run_student(make_student_config(task, root, out, steps=2), SilentReporter())
    assert read_record(out)["task"] == described
    for folder, way in ((out, "whole, sum"), (student, "first-token, max")):  # as the paper's
        assert f"| score of a word, of a label | {way} |" in (folder / "README.md").read_text()
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a good one", "label": "good"}\n' * 3)
    measured = run_here("evaluate", "--model", out, "--data", texts, "--teacher", llm, "--json")
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)["teacher_scores"] == "whole, sum"
    assert "score of a word: all its tokens" in measured.err


def test_a_cache_that_does_not_say_it_is_of_first_tokens() -> None:
    described = load_task("imdb").describe()
    del described["word_score"], described["label_score"]
    task = restore_task(described, "an older cache")
    assert (task.word_score, task.label_score) == ("first-token", "max")
