from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from processes import run_here

from pipeline.cli import cli
from pipeline.params import read_params

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
    Path("params.yaml").write_text(text)


def test_without_a_file_the_built_in_defaults_hold(seen: Callable[[str], Seen]) -> None:
    kept = seen("teacher")
    assert run_here("teacher", "--task", "imdb").code == 0
    assert kept[0]["sampler"] == "unigram"
    assert kept[0]["model"] == "auto"
    assert kept[0]["rows"] == 32768
    assert kept[0]["cache"] == "data/cache"


def test_the_file_gives_defaults_and_a_flag_wins(seen: Callable[[str], Seen]) -> None:
    write("teacher:\n  task: reddit\n  rows: 77\n  sampler: uniform\n  text_column: body\n")
    kept = seen("teacher")
    assert run_here("teacher").code == 0
    assert run_here("teacher", "--task", "imdb", "--rows", 5, "--text-column", "t").code == 0
    wanted = [("reddit", 77, "uniform", "body"), ("imdb", 5, "uniform", "t")]
    names = ("task", "rows", "sampler", "text_column")
    assert [tuple(given[name] for name in names) for given in kept] == wanted


def test_null_leaves_the_built_in_default(seen: Callable[[str], Seen]) -> None:
    write("student:\n  init: null\n  steps: null\n  learning_rate: 1e-4\n")
    kept = seen("student")
    assert run_here("student", "--task", "imdb", "--arch", "mini").code == 0
    assert kept[0]["init"] is None
    assert kept[0]["steps"] > 1
    assert kept[0]["learning_rate"] == 1e-4


def test_options_go_by_the_names_they_are_typed_with(seen: Callable[[str], Seen]) -> None:
    write("student:\n  from: abc\n  held_out_rows: 3\n  partial: true\ntag:\n  all: true\n")
    kept = seen("student")
    assert run_here("student", "--task", "imdb", "--arch", "mini").code == 0
    assert (kept[0]["source"], kept[0]["held_out_rows"], kept[0]["partial"]) == ("abc", 3, True)
    kept = seen("tag")
    assert run_here("tag", "--model", "there").code == 0
    assert kept[0]["all_scores"] is True


@pytest.mark.parametrize(
    ("given", "wanted"), [("mini", ("mini",)), ("[mini, bert]", ("mini", "bert"))]
)
def test_an_option_that_may_be_repeated_takes_a_list(
    given: str, wanted: tuple[str, ...], seen: Callable[[str], Seen]
) -> None:
    write(f"student:\n  arch: {given}\n")
    kept = seen("student")
    assert run_here("student", "--task", "imdb").code == 0
    assert kept[0]["archs"] == wanted


@pytest.mark.parametrize("text", ["", "# nothing\n", "pipeline:\n  tasks: [imdb]\n  any: thing\n"])
def test_what_is_for_others_is_left_alone(text: str) -> None:
    write(text)
    assert read_params(cli) == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("techer:\n  rows: 1\n", ["unknown section 'techer'", "'teacher'"]),
        ("xyzzy:\n  rows: 1\n", ["unknown section 'xyzzy'"]),
        ("1:\n  rows: 1\n", ["unknown section 1"]),
        ("teacher:\n  row: 1\n", ["teacher", "unknown option 'row'", "'rows'"]),
        ("teacher:\n  text-colum: a\n", ["unknown option 'text-colum'", "'text_column'"]),
        ("student:\n  3: a\n", ["student", "unknown option 3"]),
        ("cache:\n  x: 1\n", ["cache", "unknown option 'x'; there are none"]),
        ("teacher: 5\n", ["teacher must map options to values"]),
        ("- teacher\n", ["must map commands to options"]),
        ("teacher: [\n", ["not YAML"]),
        ("teacher:\n  rows: many\n", ["--rows", "many"]),
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


def test_a_file_that_is_no_text_is_named() -> None:
    Path("params.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(click.UsageError, match=r"cannot read params\.yaml"):
        read_params(cli)


def test_the_project_s_own_file_is_understood(
    seen: Callable[[str], Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert set(read_params(cli)) >= {"teacher", "student"}
    kept = seen("teacher")
    assert run_here("teacher", "--task", "imdb").code == 0
    # The first command on a machine with a GPU asks no hub for a gated model.
    assert (kept[0]["model"], kept[0]["sampler"]) == ("mini", "unigram")
    assert json.dumps(read_params(cli))


def test_dvc_yaml_gives_options_that_there_are() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert set(stages) == {"teacher", "student", "evaluate"}
    for name, stage in stages.items():
        words = stage["cmd"].split()
        assert words[:2] == ["pipeline", name]
        known = {name for option in cli.commands[name].params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known
