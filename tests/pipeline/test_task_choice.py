"""Commands without ``--task``."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from processes import run_here
from tiny import make_teacher_config

from stages.reporter import SilentReporter
from stages.teacher.stage import TeacherResult, run_teacher

Filled = tuple[Path, TeacherResult]
TRAIN = ("--steps", 2, "--batch-size", 4, "--held-out-rows", 8, "--arch", "mini")
TEACHER = ("evaluate", "--data", "x.jsonl", "--teacher")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"text": "Good", "label": "good"}\n')
    return tmp_path


@pytest.fixture
def root(filled: Filled, here: Path) -> Path:
    """A full cache where the commands look by default; its task's file is elsewhere."""
    shutil.copytree(filled[0], here / "data" / "cache")
    return here / "data" / "cache"


def commands(said: str) -> list[list[str]]:
    return [shlex.split(line) for line in said.splitlines() if line.startswith("  pipeline ")]


def test_the_only_task_with_a_complete_cache_is_taken(
    root: Path, filled: Filled, llm: Path
) -> None:
    found = run_here("student", *TRAIN)
    assert found.code == 0, found.err
    assert "task: mood (the only one with a complete cache below data/cache)\n" in found.err
    assert (Path("data/students/mood-mini") / "training.json").is_file()
    measured = run_here(*TEACHER, llm, "--json")
    assert measured.code == 0, measured.err
    assert "task: mood (the only one" in measured.err and '"task": "mood"' in measured.out
    # An incomplete one of another task is no candidate, a partial one is asked for.
    other = root / "other" / filled[1].cache.place.path.name
    shutil.copytree(next(root.glob("mood/*")), other)
    next((other / "commits").iterdir()).unlink()
    assert "task: mood (the only one" in run_here("student", *TRAIN).err
    found = run_here("student", *TRAIN, "--partial")
    assert (found.code, found.err.splitlines()[0]) == (
        2,
        "error: 2 tasks have a cache below data/cache; name one:",
    )


def test_what_the_task_s_file_alone_says_is_not_lost(here: Path, mood: Path, llm: Path) -> None:
    """The prior is kept with a cache; further prompts are asked for."""
    task = here / "mood.yaml"
    task.write_text(mood.read_text() + "prior: {bad: 0.8, good: 0.2}\n")
    fill = ("--rows", 32, "--chunk-rows", 8, "--self-generated", 0, "--batch-positions", 512)
    assert run_here("teacher", "--task", task, "--model", llm, *fill).code == 0
    found = run_here("student", *TRAIN)
    assert (found.code, "-> 80.0%" in found.err) == (0, True), found.err
    assert "-> 80.0%" in run_here(*TEACHER, llm).err
    found = run_here("student", *TRAIN, "--prior", "")
    assert (found.code, "got '' in ''" in found.err) == (2, True), found.err
    prompts = 'prompt: ["Is this good or bad?\\n", "Say how it is.\\n"]'
    task.write_text(mood.read_text().replace('prompt: "Is this good or bad?\\n"', prompts))
    assert run_here("teacher", "--task", task, "--model", llm, *fill).code == 0
    found = run_here(*TEACHER, llm)
    assert found.code == 2
    assert found.err.endswith("2 prompts of mood; give the task's file (--task)\n"), found.err


def test_the_cache_that_is_named_says_the_task(root: Path, filled: Filled) -> None:
    shutil.copytree(root / "mood", root / "other")
    fingerprint = filled[1].cache.fingerprint
    (root / "summary.json").write_text(
        f'{{"fingerprint": "{fingerprint}", "directory": "mood/{fingerprint[:32]}"}}'
    )
    for source in (f"data/cache/mood/{fingerprint[:32]}", "data/cache/summary.json"):
        found = run_here("student", *TRAIN, "--from", source)
        assert found.code == 0, found.err
        assert f"task: mood (that of data/cache/mood/{fingerprint[:32]})\n" in found.err


def test_of_several_tasks_each_command_is_listed(root: Path) -> None:
    shutil.copytree(root / "mood", root / "imdb")
    for arguments in (
        ["student", "--arch", "roberta-large"],
        ["evaluate", "--data", "a b", "--teacher", "mini"],
    ):
        found = run_here(*arguments)
        assert (found.code, found.out) == (2, "")
        assert "2 tasks have a complete cache below data/cache; name one:\n" in found.err
        assert commands(found.err) == [
            ["pipeline", *arguments, "--task", "imdb"],
            ["pipeline", *arguments, "--task", "mood.yaml"],
        ]


def test_several_caches_are_listed_and_an_incomplete_one_is_used_only_when_asked_to(
    root: Path, filled: Filled, llm: Path, mood: Path
) -> None:
    config = make_teacher_config(mood, llm, root, rows=64, seed=1)
    other = run_teacher(config, SilentReporter()).cache
    student = ("student", "--task", mood, *TRAIN)
    found = run_here(*student)
    assert (found.code, "2 caches of task mood" in found.err) == (2, True)
    for cache, sampled in ((other, "64 vocabulary, seed 1"), (filled[1].cache, "seed 0")):
        (line,) = (x for x in found.err.splitlines() if cache.fingerprint[:12] in x)
        assert sampled in line
    assert not Path("data/students").exists()
    found = run_here(*student, "--from", other.fingerprint[:8])
    assert found.code == 0, found.err
    assert other.fingerprint[:32] in found.err
    next(root.glob(f"mood/{other.fingerprint[:32]}/commits/*")).unlink()
    student += ("--from", other.fingerprint[:8])
    found = run_here(*student)
    assert found.code == 1
    assert all(part in found.err for part in ("1 of 2 shards", "--partial", "pipeline teacher"))
    found = run_here(*student, "--partial")
    assert found.code == 0, found.err
    assert "training on 32 of 64 rows: the cache is partial" in found.err


def test_without_a_complete_cache_the_commands_that_make_one_are_listed(
    root: Path, llm: Path, mood: Path
) -> None:
    for task, typed in ((mood, "mood.yaml"), ("imdb", "imdb")):
        found = run_here("student", *TRAIN, "--task", task, "--cache", "none")
        assert found.code == 2
        assert f"run `pipeline teacher --task {typed}` first" in found.err, found.err
    for arguments in (("student", *TRAIN), (*TEACHER, "mini")):
        found = run_here(*arguments, "--cache", "none")
        assert found.code == 2
        assert "no task has a complete cache below none; make one, or finish one by" in found.err
        assert commands(found.err) == [
            ["pipeline", "teacher", "--task", task, "--cache", "none"]
            for task in ("ag_news", "emotions", "imdb", "reddit")
        ]
    found = run_here("student", *TRAIN, "--labels", "gold", "--texts", "x.jsonl")
    assert (found.code, "no cache says which; name one:\n" in found.err) == (2, True)
    assert commands(found.err)[0][-4:] == ["--texts", "x.jsonl", "--task", "ag_news"]
    next(root.glob("mood/*/commits/*")).unlink()
    found = run_here("student", *TRAIN)
    assert found.code == 2
    assert "no task has a complete cache below data/cache (1 incomplete); make one" in found.err


def test_tasks_are_listed_where_one_must_be_named() -> None:
    for arguments, named in (
        (["teacher", "--rows", "5"], "Missing option '--task'"),
        (["task", "check", "--chat"], "Missing argument 'NAME'"),
    ):
        found = run_here(*arguments)
        assert (found.code, found.out) == (2, "")
        assert f"Error: {named}; there are these, and the path of a file of yours:\n" in found.err
        option = ["--task"] if "option" in named else []
        assert commands(found.err) == [
            ["pipeline", *arguments, *option, task]
            for task in ("ag_news", "emotions", "imdb", "reddit")
        ]


def test_the_only_cache_needs_no_name(root: Path) -> None:
    (place,) = root.glob("mood/*")
    assert run_here("cache", "path").out == f"{place.relative_to(root.parent.parent)}\n"
    assert "mood" in run_here("cache", "show").out
    shutil.copytree(root / "mood", root / "imdb")
    for command in ("path", "show"):
        found = run_here("cache", command)
        assert (found.code, found.out) == (2, "")
        assert "which of 2 caches is meant below data/cache:\n" in found.err
    assert "no caches below none" in run_here("cache", "show", "--cache", "none").err
