"""Task files as people write them: what is meant is read, anything else is refused in one line."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.errors import TaskError
from stages.tasks import Task, load_task
from stages.yaml_files import LARGEST, read_yaml

TASK = "prompt: P\nmax_length: 3\nlabels: {a: [x], b: [y]}\n"
TENS = "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMB = f"a: &a [x]\n{TENS}"


def load(folder: Path, data: str | bytes) -> Task:
    path = folder / "mine.yaml"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return load_task(str(path))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (TASK.replace("P", "2024-02-30"), {"prompt": "2024-02-30"}),
        (TASK.replace("P", "&p P") + "suffix: *p\n", {"prompt": "P", "suffix": "P"}),
        (TASK.replace("3", "024"), {"max_length": 24}),
        (TASK.replace("3", '"24"'), {"max_length": 24}),
        (TASK.replace("a: [x]", "1: [true, 024]"), {"label_names": ("1", "b")}),
        (TASK.replace("a: [x]", "no: [No, off]"), {"label_names": ("no", "b")}),
        (TASK.replace("b: [y]", "<<: {b: [y], c: [z]}"), {"label_names": ("a", "b", "c")}),
        ("<<: [{prompt: Q, suffix: S}, {suffix: T}]\n" + TASK, {"prompt": "P", "suffix": "S"}),
        (b"\xef\xbb\xbf" + TASK.encode(), {"prompt": "P"}),
        (TASK.encode("utf-16-le"), {"prompt": "P"}),
        (TASK.replace("\n", "\r\n"), {"prompt": "P"}),
        (TASK.replace("P", "é").encode("utf-16"), {"prompt": "é"}),
        (
            '{\n\t"prompt": "\\ud83d\\ude00\\/",\n\t"max_length": 3,\n'
            '\t"labels": {"a": ["x"], "b": ["y"]}\n}',
            {"prompt": "😀/"},
        ),
    ],
)
def test_what_is_meant_is_read(given: str | bytes, wanted: dict[str, Any], tmp_path: Path) -> None:
    task = load(tmp_path, given)
    assert {name: getattr(task, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (TASK.replace("P", "!include other"), ["line 1", "the tag '!include'"]),
        (TASK.replace("P", "!!python/name:os.system x"), ["line 1", "'!!python/name:os.system'"]),
        (TASK.replace("3", "!!int 5 m"), ["max_length", "'5 m'", "integer"]),
        (BOMB + TASK, ["aliases", "characters"]),
        (BOMB.replace("[", "{<<: [").replace("]", "]}") + TASK, ["'<<' takes a mapping"]),
        ("a: &a {x: y}\n" + TENS.replace("[", "{<<: [").replace("]", "]}") + TASK, ["aliases"]),
        (f"a: &a {'x' * 9999}\nprompt: [{'*a, ' * 9999}]\n", ["aliases", "characters"]),
        ("a: &a [*a, *a]\n" + TASK, ["aliases", "levels"]),
        ("[" * 3000 + "]" * 3000, ["50 levels"]),
        ("- " * 3000, ["50 levels"]),
        (TASK + "prompt: Q\n", ["line 4", "'prompt' is given twice"]),
        (TASK.replace("b: [y]", "a: [z], b: [y]"), ["line 3", "'a' is given twice"]),
        (TASK.replace("b: [y]", "<<: {b: [y]}, <<: {c: [z]}"), ["'<<' is given twice"]),
        (TASK.replace("[x]", "[null]"), ["label 'a'", "None", "quotes"]),
        (TASK.replace("3", "1_000"), ["max_length", "'1_000'", "integer"]),
        (TASK.replace("3", "0x" + "f" * 9000), ["max_length", "integer"]),
        ("? [a]\n: b\n" + TASK, ["line 1", "a key must be a single value"]),
        (TASK.replace("P", "a\0b"), ["line 1", "U+0000"]),
        (TASK.replace("P", "é").encode("latin-1"), ["line 1", "not utf-8"]),
        (TASK.replace("labels: ", "labels:\n\t"), ["line 4", r"'\t'"]),
        (TASK.replace("P", '"\\ud83d"'), ["line 1", "half a surrogate pair"]),
        (TASK.replace("P", '"\\UFFFFFFFF"'), ["not YAML"]),
        (TASK + "---\n" + TASK, ["line 4", "another document"]),
        ("#" * (LARGEST + 1), ["bytes"]),
    ],
)
def test_what_is_not_is_named_in_one_line(
    given: str | bytes, named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(TaskError) as found:
        load(tmp_path, given)
    said = str(found.value)
    assert "mine.yaml" in said
    assert "\n" not in said and len(said) < 400 + len(str(tmp_path))
    for part in named:
        assert part in said


def test_what_can_be_read_only_once_or_never_ends_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "pipe.yaml", tmp_path / "folder.yaml", Path("/dev/zero")):
        with pytest.raises(TaskError, match=f"cannot read the task file {path}: it is no file"):
            load_task(str(path))


def test_a_bomb_costs_little_and_says_little(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB + TASK)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))

    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "task", "show", "bomb.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the task file bomb.yaml, line 1: ")
    assert len(done.stderr) < 200


def test_one_key_can_be_read_whatever_the_others_hold(tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(f"{BOMB}x: 2024-02-30\nx: !y z\nours: {{a: 024, b: yes, c: null, d: 1e-4}}\n")
    wanted = {"a": "024", "b": "yes", "c": None, "d": "1e-4"}
    assert read_yaml(path, "", TaskError, "ours") == wanted
    assert read_yaml(path, "", TaskError, "theirs") is None
