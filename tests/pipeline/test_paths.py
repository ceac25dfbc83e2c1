"""Every option that takes a path reads it alike."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from processes import run_here
from test_cli import COMMANDS

from cache.errors import PlaceError
from cache.paths import expand_path
from cache.stores.places import LocalPlace, ObjectPlace, parse_place
from pipeline.options import PathType

WORDS = {"push_to_hub", "prior", "title", "text_column", "label_column", "device", "dtype"}
WORDS |= {"label_map", "onnx_file"}
"""Parameters of text that are no paths."""


def list_parameters() -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    for path, command in COMMANDS.items():
        yield from ((path, each) for each in command.params if isinstance(each.type, PathType))


PARAMETERS = list(list_parameters())
IDS = [" ".join((*path, str(each.name))) for path, each in PARAMETERS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_no_other_parameter_is_a_path() -> None:
    for path, command in COMMANDS.items():
        for each in command.params:
            if type(each.type) is type(click.STRING) or isinstance(each.type, click.Path):
                assert each.name in WORDS or isinstance(each.type, PathType), (path, each.name)


@pytest.mark.parametrize(("path", "parameter"), PARAMETERS, ids=IDS)
def test_what_is_no_path_is_refused_everywhere(
    path: tuple[str, ...], parameter: click.Parameter, here: Path
) -> None:
    for given, named in (
        ("s3:/b/x", "'s3:/b/x' is mistyped: a URL is s3://bucket/prefix"),
        ("file:/x", "is mistyped: a URL is file:///path"),
        ("file://elsewhere/x", "must be file:///path"),
        ("C:\\data", "is a path of Windows"),
        ("\\\\server\\share", "is a path of Windows"),
        ("~no-such-user/x", "there is no home directory ~no-such-user"),
        ("ftp://b/x", "'ftp://b/x' "),
        (" ", "an empty name names no file"),
    ):
        option = isinstance(parameter, click.Option)
        found = run_here(*path, *([f"{parameter.opts[-1]}={given}"] if option else ["--", given]))
        assert found.code == 2
        assert named in found.err.splitlines()[-1]
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("path", "parameter"), PARAMETERS, ids=IDS)
def test_home_is_found_everywhere_and_a_url_is_for_caches_alone(
    path: tuple[str, ...], parameter: click.Parameter, here: Path
) -> None:
    if parameter.name in ("cache", "source") or path[0] == "cache":
        assert parameter.type.convert("s3://b/x", None, None) == "s3://b/x"
    else:
        with pytest.raises(click.BadParameter, match="'s3://b/x' is a URL; this must be"):
            parameter.type.convert("s3://b/x", None, None)
    file, folder = here / "home" / "x", here / "home"
    folder.mkdir()
    wants_folder = parameter.name in ("students", "evaluations")
    file.mkdir() if wants_folder else file.touch()
    assert str(parameter.type.convert("~/x", None, None)) == str(file)
    assert str(parameter.type.convert(f"file://{folder}/%78", None, None)) == str(file)


def test_home_is_found_by_commands_and_in_the_file(here: Path) -> None:
    for root in ("~/caches", f"~{getpass.getuser()}/caches"):
        said = run_here("cache", "list", f"--cache={root}").out
        assert said == f"no caches below {Path(root).expanduser()}\n"
    sections = "  student: {task: imdb, arch: mini, cache: ~/caches, out: 's3://b/x'}\n"
    (here / "params.yaml").write_text(f"functional_projection:\n{sections}")
    assert "'--out': 's3://b/x' is a URL" in run_here("student").err
    found = run_here("student", "--out", "out")
    assert f"no complete cache of task imdb below {here}/home/caches" in found.err
    assert not (here / "~").exists()


def test_an_input_s_name_is_a_path(student: Path, here: Path) -> None:
    (here / "home").mkdir()
    (here / "home" / "x").write_text("Good\n")
    found = run_here("tag", "--model", student, "~/x")
    assert (found.code, found.out.count("\n")) == (0, 1), found.err
    assert "is a URL" in run_here("tag", "--model", student, "s3://b/x").err


def test_names_pass_and_a_dot_makes_any_name_a_path() -> None:
    for name in ("mini", "meta-llama/Llama-2-7b-hf", "./none", "a:b", "1:2/x", "x/~/y", "a$b"):
        assert expand_path(name) == name
    for name in ("./~/x", "./s3:/x", "./C:/x"):
        assert parse_place(name) == LocalPlace(Path(name))
    assert parse_place("S3://b/x") == ObjectPlace("s3://b/x")
    with pytest.raises(PlaceError, match="names no file"):
        expand_path("a\0b")
