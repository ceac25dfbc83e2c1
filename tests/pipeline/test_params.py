from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import run_here

from pipeline.cli import cli
from pipeline.params import KEY, read_params

REPOSITORY = Path(__file__).parents[2]
Seen = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Seen]:
    """Replaces a command by one that only keeps what it was given."""

    def callbacks(name: str) -> Seen:
        kept: Seen = []
        monkeypatch.setattr(cli.commands[name], "callback", lambda **given: kept.append(given))
        return kept

    return callbacks


def write(text: str) -> None:
    """Write sections of ours."""
    Path("params.yaml").write_text(f"{KEY}:\n{textwrap.indent(text, '  ')}")


def test_the_file_gives_other_defaults_and_a_flag_wins(seen: Callable[[str], Seen]) -> None:
    kept = seen("teacher")
    assert run_here("teacher", "--task", "imdb").code == 0
    names = ("model", "rows", "sampler", "cache")
    assert [kept[0][name] for name in names] == ["auto", 32768, "auto", "data/cache"]
    write("teacher:\n  task: reddit\n  rows: 77\n  sampler: uniform\n  text_column: body\n")
    kept = seen("teacher")
    assert run_here("teacher").code == 0
    assert run_here("teacher", "--task", "imdb", "--rows", 5, "--text-column", "t").code == 0
    wanted = [("reddit", 77, "uniform", "body"), ("imdb", 5, "uniform", "t")]
    names = ("task", "rows", "sampler", "text_column")
    assert [tuple(given[name] for name in names) for given in kept] == wanted


def test_options_go_by_the_names_they_are_typed_with_and_values_are_read_as_written(
    seen: Callable[[str], Seen],
) -> None:
    start = "student:\n  from: 0123e5\n  held_out_rows: 3\n  partial: yes\n  seed: 024\n"
    start += "  steps: null\n  init: null\n  learning_rate: 1e-4\n  arch: "
    names = ("source", "held_out_rows", "partial", "seed", "steps", "init", "learning_rate")
    for arch, wanted in (("mini", ("mini",)), ("[mini, bert]", ("mini", "bert"))):
        write(f"{start}{arch}\ntag:\n  all: true\n")
        kept = seen("student")
        assert run_here("student", "--task", "imdb").code == 0
        assert [kept[0][name] for name in names] == [("0123e5",), 3, True, 24, 500, None, 1e-4]
        assert kept[0]["archs"] == wanted
    kept = seen("tag")
    assert run_here("tag", "--model", "there").code == 0
    assert kept[0]["all_scores"] is True


FOREIGN = {  # and whether ours can stand below it
    "# nothing\n": True,
    "a: [\n": False,
    "- a list\n": False,
    "train: {lr: 1e-3}\nteacher: {hidden: 768, model: mini}\ntags: 3\n": True,
    "pipeline: {steps: [a, b]}\npipeline: 3\nteacher: !include x.yaml\nday: 2024-02-30\n": True,
    "a: &a [x]\n" + "".join(f"{n}: &{n} [{', '.join(['*' + m] * 9)}]\n" for m, n in
                            ("ab", "bc", "cd", "de", "ef", "fg", "gh", "hi")): True,
    "{{ cookiecutter.teacher }}: {% if x %}\n": False,
    "teacher: " + "[" * 3000 + "\n": False,
    "x" * 2**20: False,
}  # fmt: skip


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_what_is_for_others_is_left_alone(text: str, seen: Callable[[str], Seen]) -> None:
    Path("params.yaml").write_text(text)
    for name, *given in (["teacher", "--task", "imdb"], ["tag", "--model", "there"]):
        kept = seen(name)
        found = run_here(name, *given)
        assert (found.code, found.err, len(kept)) == (0, "", 1)
    if FOREIGN[text]:
        Path("params.yaml").write_text(f"{text}{KEY}:\n  teacher:\n    rows: 7\n")
        kept = seen("teacher")
        assert run_here("teacher", "--task", "imdb").code == 0
        assert kept[0]["rows"] == 7
    for make in (Path.mkdir, os.mkfifo):  # as little does what is no file
        Path("params.yaml").rename(f"{make.__name__}.yaml")
        make(Path("params.yaml"))
        kept = seen("tag")
        assert (run_here("tag", "--model", "there").code, len(kept)) == (0, 1)


@pytest.mark.parametrize(
    "text",
    [f"{KEY}:\n  teacher: [\n", f"{KEY}:\n  teacher: {{rows: 1}}\n{KEY}: {{}}\n", f"{KEY}: \xff\n"],
)
def test_a_broken_file_stops_only_what_it_names(text: str, seen: Callable[[str], Seen]) -> None:
    Path("params.yaml").write_bytes(text.encode("latin-1") + b"  teacher: 5\n")
    kept = seen("teacher")
    found = run_here("teacher", "--task", "imdb")
    assert (found.code, kept) == (2, [])
    assert found.err.startswith("error: params.yaml, line ")
    assert found.err.count("\n") == 1
    kept = seen("tag")
    assert run_here("tag", "--model", "there").err == ""
    assert len(kept) == 1
    for arguments in (["--help"], ["teacher", "--help"], ["task", "list"], ["cache", "list"]):
        assert (run_here(*arguments).code, run_here(*arguments).err) == (0, "")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("techer:\n  rows: 1\n", ["unknown section 'techer'", "'teacher'"]),
        ("1:\n  rows: 1\n", ["unknown section '1'"]),
        ("teacher:\n  row: 1\n", ["teacher", "unknown option 'row'", "'rows'"]),
        ("teacher:\n  rows: 1\nstudent:\n  3: a\n", ["student", "unknown option '3'"]),
        ("cache:\n  x: 1\n", ["unknown section 'cache'"]),
        ("teacher: 5\n", ["teacher must map options to values"]),
        ("- teacher\n", ["must map commands to options"]),
        ("teacher: [\n", ["not YAML"]),
        ("teacher:\n  rows: 1\n  rows: 2\n", ["line 4", "'rows' is given twice"]),
        ("teacher:\n  rows: !x 1\n", ["line 3", "the tag '!x'"]),
        ("teacher:\n  rows: 0\n", ["--rows", "0"]),
        ("teacher:\n  rows: 1.5\n", ["rows", "1.5"]),
        ("teacher:\n  rows: [1]\n", ["rows"]),
        ("teacher:\n  summary: {a: b}\n", ["summary"]),
        ("teacher:\n  sampler: unifrom\n", ["--sampler", "'unifrom'", "'uniform'"]),
    ],
)
def test_what_is_wrong_is_named_and_ends_with_2(text: str, named: list[str]) -> None:
    write(text)
    found = run_here("teacher", "--task", "no-such-task")
    assert found.code == 2
    for part in named:
        assert part in found.err


def test_the_project_s_own_file_is_understood(
    seen: Callable[[str], Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    for name in ("teacher", "student"):
        assert json.dumps(read_params(name, cli.commands)) != "{}"
    kept = seen("teacher")
    assert run_here("teacher", "--task", "imdb").code == 0
    # The first command on a machine with a GPU asks no hub for a gated model.
    assert (kept[0]["model"], kept[0]["sampler"]) == ("mini", "auto")


def test_dvc_yaml_gives_options_that_there_are() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert set(stages) == {"teacher", "student", "evaluate"}
    for name, stage in stages.items():
        words = stage["cmd"].split()
        assert words[:2] == ["pipeline", name]
        assert stage["params"] == [f"{KEY}.{name}"]
        known = {name for option in cli.commands[name].params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known
