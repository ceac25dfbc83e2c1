"""Tasks: what is asked of the language model, and which words count as which answer.

A task is a YAML file with the keys of :class:`Task`; three come with the project, any other path
works the same way.  Loading checks everything that can be checked without a tokenizer; what needs
one is in :mod:`stages.tasks.verbaliser`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cache.suggestion import suggest
from stages.errors import TaskError

KEYS = ("name", "prompt", "suffix", "max_length", "labels")
REQUIRED = ("prompt", "max_length", "labels")
BUNDLED = Path(__file__).parent
LONGEST = 1_000_000
"""No model reads inputs of more tokens than this; a larger number is a slip of the finger."""


@dataclass(frozen=True)
class Label:
    """One class: its name and the words that stand for it (the verbaliser's words)."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A prompt around an input, and the labels that an answer is one of.

    Attributes:
        name: Short name, used in directory names.
        prompt: Fixed text in front of the input.
        suffix: Fixed text behind the input, may be empty.
        labels: At least two labels, in the order of the class columns.
        max_length: Longest input, in tokens of the model's tokenizer.
    """

    name: str
    prompt: str
    suffix: str
    labels: tuple[Label, ...]
    max_length: int

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in column order."""
        return tuple(label.name for label in self.labels)

    def describe(self, token_ids: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return the task as a cache's manifest states it.

        Args:
            token_ids: The token that stands for each label word; None: no model is asked.
        """
        ids = token_ids or {}
        return {
            "name": self.name,
            "prompt": self.prompt,
            "suffix": self.suffix,
            "max_length": self.max_length,
            "labels": [
                {"name": label.name, "words": [[word, ids.get(word)] for word in label.words]}
                for label in self.labels
            ],
        }


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice; YAML would keep the last and drop the other's words unsaid."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


def list_tasks() -> tuple[str, ...]:
    """Return the names of the tasks that come with the project."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.yaml")))


def load_task(name_or_path: str) -> Task:
    """Load a bundled task by name or any task from a YAML file.

    Args:
        name_or_path: A name from :func:`list_tasks`, or a path (anything with a separator or a
            ``.yaml``/``.yml`` ending).

    Raises:
        TaskError: There is no such task, the file cannot be read, or its contents are not a task.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
        if name_or_path not in list_tasks():
            raise TaskError(
                f"unknown task {name_or_path!r}{suggest(name_or_path, list_tasks())}; a task of "
                "your own is given by the path of its YAML file"
            )
        path = BUNDLED / f"{name_or_path}.yaml"
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TaskError(f"cannot read the task file {path}: {reason}") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise TaskError(f"the task file {path}{line} is not YAML: {problem}") from error
    return parse_task(data, source=str(path), default_name=path.stem)


def parse_task(data: object, source: str, default_name: str) -> Task:
    """Turn a parsed YAML document into a task.

    Args:
        data: The document.
        source: Where it came from, for messages.
        default_name: The task's name where the document gives none.

    Raises:
        TaskError: Something in the document is not as it must be; the message names it.
    """
    try:
        return _parse_task(data, default_name)
    except TaskError as error:
        raise TaskError(f"{source}: {error}") from None


def _parse_task(data: object, default_name: str) -> Task:
    if not isinstance(data, dict):
        keys, found = ", ".join(KEYS), type(data).__name__
        raise TaskError(f"a task is a mapping with the keys {keys}, got {found}")
    for key in data:
        if key not in KEYS:
            raise TaskError(f"unknown key {key!r}{suggest(key, KEYS)}")
    for key in REQUIRED:
        if key not in data:
            raise TaskError(f"the key {key!r} is missing")
    prompt, suffix = _text(data["prompt"], "prompt"), _text(data.get("suffix", ""), "suffix")
    if not prompt.strip():
        raise TaskError("the prompt is empty; say what the model is to decide")
    name = _text(data.get("name", default_name), "name")
    if not all(char.isalnum() or char in "-_." for char in name) or name[:1] in ("", "."):
        raise TaskError(
            f"name {name!r} must be letters, digits, '-', '_' and '.', since directories are "
            "named after it"
        )
    length = data["max_length"]
    if type(length) is not int or not 1 <= length <= LONGEST:
        raise TaskError(f"max_length: got {length!r}, must be an integer in [1, {LONGEST}]")
    return Task(name, prompt, suffix, _parse_labels(data["labels"]), length)


def _parse_labels(data: object) -> tuple[Label, ...]:
    if not isinstance(data, dict):
        raise TaskError(f"labels must map each label to a list of words, got {type(data).__name__}")
    if len(data) < 2:
        raise TaskError(f"got {len(data)} label(s), a task needs at least two")
    owners: dict[str, str] = {}
    for key, words in data.items():
        name = _text(key, "label name")
        if not name.strip():
            raise TaskError("a label has an empty name")
        if not isinstance(words, list) or not words:
            raise TaskError(f"label {name!r} needs a list of at least one word")
        for item in words:
            word = _text(item, f"label {name!r}: word")
            if not word.strip():
                raise TaskError(f"label {name!r} has an empty word")
            if word != word.strip():
                raise TaskError(f"label {name!r}: the word {word!r} begins or ends with a space")
            owner = owners.setdefault(word, name)
            if owner != name:
                raise TaskError(
                    f"the word {word!r} stands for both {owner!r} and {name!r}; a word can answer "
                    "for one label only"
                )
        if len(set(words)) < len(words):
            twice = next(word for word in words if words.count(word) > 1)
            raise TaskError(f"label {name!r} repeats the word {twice!r}")
    return tuple(Label(name, tuple(words)) for name, words in data.items())


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        hint = "(YAML reads yes, no, on, off and bare numbers as other types: put it in quotes)"
        raise TaskError(f"{where}: got {value!r}, must be text {hint}")
    return value
