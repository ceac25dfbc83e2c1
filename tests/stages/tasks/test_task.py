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
    negative, positive = (label.words for label in tasks["imdb"].labels)  # the paper's ten
    assert negative == ("Negative", "Unfavorable", "Bad", "Poor", "Terrible")
    assert positive == ("Positive", "Favorable", "Good", "Excellent", "Great")


def test_a_user_s_file_loads_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("mine.yaml", "mine.yml", "below/mine.yaml"):
        path = Path(file)
        path.parent.mkdir(exist_ok=True)
        path.write_text("prompt: P\nmax_length: 3\nlabels: {a: [x], b: [y, z]}\n")
        for name in (file, str(path.absolute())):
            task = load_task(name)
            assert (task.name, task.prompt, task.suffix, task.max_length) == ("mine", "P", "", 3)
            labels = [(label.name, label.words) for label in task.labels]
            assert labels == [("a", ("x",)), ("b", ("y", "z"))]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (mood(promt="x"), ["unknown key 'promt'", "did you mean 'prompt'?"]),
        (mood(xyzzy=1), ["unknown key 'xyzzy'", "max_length"]),
        (without("prompt"), ["'prompt' is missing"]),
        (mood(labels={"a": ["x"]}), ["1 label(s)", "at least two"]),
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
        (mood(max_length=0), ["max_length", "0"]),
        (mood(max_length=True), ["max_length", "True"]),
        (mood(max_length="12"), ["max_length", "'12'"]),
        (mood(max_length=1_000_001), ["max_length", "1000001"]),
        (mood(name="../x"), ["name '../x'"]),
        (mood(name=""), ["name ''"]),
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


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for content, named in ((None, "No such file"), (b"a: [1\nb: 2\n", "line 2"), (b"", "mapping")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TaskError, match=named) as found:
            load_task(str(path))
        assert str(path) in str(found.value)
