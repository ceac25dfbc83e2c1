from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import MOOD

from stages.errors import TaskError
from stages.tasks.task import list_tasks, load_task, parse_task


def mood(**changes: Any) -> dict[str, Any]:
    return yaml.safe_load(MOOD) | changes


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in mood().items() if name != key}


def test_bundled_tasks_load() -> None:
    assert list_tasks() == ("ag_news", "emotions", "imdb", "reddit")
    tasks = {name: load_task(name) for name in list_tasks()}
    assert {name: task.name for name, task in tasks.items()} == {name: name for name in tasks}
    assert tasks["ag_news"].label_names == ("World", "Sports", "Business", "Sci/Tech")
    assert tasks["imdb"].label_names == tasks["reddit"].label_names == ("negative", "positive")


def test_the_paper_s_ten_words_are_imdb_s() -> None:
    negative, positive = load_task("imdb").labels
    assert negative.words == ("Negative", "Unfavorable", "Bad", "Poor", "Terrible")
    assert positive.words == ("Positive", "Favorable", "Good", "Excellent", "Great")


@pytest.mark.parametrize("file", ["mine.yaml", "mine.yml", "below/mine.yaml"])
def test_a_user_s_file_loads_by_path(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(file)
    path.parent.mkdir(exist_ok=True)
    path.write_text("prompt: P\nmax_length: 3\nlabels: {a: [x], b: [y, z]}\n")
    for name in (file, str(path.absolute())):
        task = load_task(name)
        assert (task.name, task.prompt, task.suffix, task.max_length) == ("mine", "P", "", 3)
        assert [(label.name, label.words) for label in task.labels] == [
            ("a", ("x",)),
            ("b", ("y", "z")),
        ]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (mood(promt="x"), ["unknown key 'promt'", "did you mean 'prompt'?"]),
        (mood(sufix="x"), ["unknown key 'sufix'", "did you mean 'suffix'?"]),
        (mood(xyzzy=1), ["unknown key 'xyzzy'", "max_length"]),
        (without("prompt"), ["'prompt' is missing"]),
        (without("max_length"), ["'max_length' is missing"]),
        (without("labels"), ["'labels' is missing"]),
        (mood(labels={"a": ["x"]}), ["1 label(s)", "at least two"]),
        (mood(labels={}), ["0 label(s)", "at least two"]),
        (mood(labels=["a", "b"]), ["labels must map", "list"]),
        (mood(labels={"a": ["x", ""], "b": ["y"]}), ["label 'a'", "empty word"]),
        (mood(labels={"a": ["x"], "b": ["  "]}), ["label 'b'", "empty word"]),
        (mood(labels={"a": ["x"], "b": []}), ["label 'b'", "at least one word"]),
        (mood(labels={"a": ["x"], "b": "y"}), ["label 'b'", "list"]),
        (mood(labels={"a": ["x", "y", "x"], "b": ["z"]}), ["label 'a'", "repeats the word 'x'"]),
        (mood(labels={"a": ["x"], "b": ["y", "x"]}), ["'x'", "'a'", "'b'"]),
        (mood(labels={"a": [" x"], "b": ["y"]}), ["' x'", "space"]),
        (mood(labels={"a": [True], "b": ["y"]}), ["label 'a'", "True", "quotes"]),
        (mood(labels={False: ["x"], "b": ["y"]}), ["label name", "False", "quotes"]),
        (mood(labels={" ": ["x"], "b": ["y"]}), ["empty name"]),
        (mood(prompt=""), ["prompt is empty"]),
        (mood(prompt=3), ["prompt", "3", "text"]),
        (mood(suffix=None), ["suffix", "None"]),
        (mood(max_length=0), ["max_length", "0"]),
        (mood(max_length=True), ["max_length", "True"]),
        (mood(max_length="12"), ["max_length", "'12'"]),
        (mood(max_length=1_000_001), ["max_length", "1000001"]),
        (mood(name="../x"), ["name '../x'"]),
        (mood(name=".x"), ["name '.x'"]),
        (mood(name=""), ["name ''"]),
        (["prompt"], ["mapping", "list"]),
        (None, ["mapping", "NoneType"]),
    ],
)
def test_what_is_wrong_with_a_task_is_named(data: Any, named: list[str]) -> None:
    with pytest.raises(TaskError) as found:
        parse_task(data, "there.yaml", "there")
    assert found.value.usage
    for part in ["there.yaml", *named]:
        assert part in str(found.value)


def test_an_unknown_task_is_answered_with_the_nearest_or_all() -> None:
    with pytest.raises(TaskError, match=r"'imbd' \(did you mean 'imdb'\?\); .* YAML file"):
        load_task("imbd")
    with pytest.raises(
        TaskError, match=r"'xyz'; known are ag_news, emotions, imdb, reddit; .* YAML file"
    ):
        load_task("xyz")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "No such file"),
        (b"a: [1\nb: 2\n", "line 2"),
        (b"a: \xff\n", "utf-8"),
        (b"", "mapping"),
    ],
)
def test_an_unreadable_file_is_named(content: bytes | None, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError) as found:
        load_task(str(path))
    assert str(path) in str(found.value)
    assert named in str(found.value)


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("prompt: P\nmax_length: 3\nlabels:\n  a: [x]\n  b: [y]\n  a: [z]\n")
    with pytest.raises(TaskError, match="'a'"):
        load_task(str(path))
