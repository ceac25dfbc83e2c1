"""Tasks: what is asked of the language model, and which words count as which answer.

A task is a YAML file with the keys of :class:`Task`; three come with the project, any other path
works the same way.  Loading checks everything that can be checked without a tokenizer; what needs
one is in :mod:`stages.tasks.verbaliser`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
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
    for fault in _find_faults(data, default_name):
        raise TaskError(f"{source}: {fault}")
    found: dict[str, Any] = {"name": default_name, "suffix": ""} | data  # type: ignore[operator]
    labels = [Label(name, tuple(words)) for name, words in found.pop("labels").items()]
    return Task(**found, labels=tuple(labels))


def _find_faults(data: Any, default_name: str) -> Iterator[str]:
    """Yield what is wrong with a document; nobody reads on behind the first fault."""
    if not isinstance(data, dict):
        yield f"a task is a mapping with the keys {', '.join(KEYS)}, got {type(data).__name__}"
    yield from (f"unknown key {key!r}{suggest(key, KEYS)}" for key in data if key not in KEYS)
    yield from (f"the key {key!r} is missing" for key in REQUIRED if key not in data)
    name, length, labels = data.get("name", default_name), data["max_length"], data["labels"]
    yield from _find_no_text("prompt", data["prompt"])
    yield from _find_no_text("suffix", data.get("suffix", ""))
    yield from _find_no_text("name", name)
    if not data["prompt"].strip():
        yield "the prompt is empty; say what the model is to decide"
    if not all(char.isalnum() or char in "-_." for char in name) or name[:1] in ("", "."):
        yield (
            f"name {name!r} must be letters, digits, '-', '_' and '.', since directories are named "
            "after it"
        )
    if type(length) is not int or not 1 <= length <= LONGEST:
        yield f"max_length: got {length!r}, must be an integer in [1, {LONGEST}]"
    if not isinstance(labels, dict):
        yield f"labels must map each label to a list of words, got {type(labels).__name__}"
    if len(labels) < 2:
        yield f"got {len(labels)} label(s), a task needs at least two"
    owners: dict[str, str] = {}
    for label, words in labels.items():
        yield from _find_no_text("label name", label)
        if not label.strip():
            yield "a label has an empty name"
        if not isinstance(words, list) or not words:
            yield f"label {label!r} needs a list of at least one word"
        for word in words:
            yield from _find_no_text(f"label {label!r}: word", word)
            if not word.strip():
                yield f"label {label!r} has an empty word"
            if word != word.strip():
                yield f"label {label!r}: the word {word!r} begins or ends with a space"
            if words.count(word) > 1:
                yield f"label {label!r} repeats the word {word!r}"
            if (owner := owners.setdefault(word, label)) != label:
                yield (
                    f"the word {word!r} stands for both {owner!r} and {label!r}; a word can answer "
                    "for one label only"
                )


def _find_no_text(where: str, value: object) -> Iterator[str]:
    if not isinstance(value, str):
        hint = "(YAML reads yes, no, on, off and bare numbers as other types: put it in quotes)"
        yield f"{where}: got {value!r}, must be text {hint}"
