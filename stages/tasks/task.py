"""Tasks: what is asked of the language model, and which words count as which answer.

A task is a YAML file with the keys of :class:`Task`; some come with the project.  Loading checks
all that can be checked without a tokenizer; the rest is in :mod:`stages.tasks.verbaliser`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.suggestion import suggest
from stages.errors import SettingError, TaskError
from stages.tasks.shares import AUTO, parse_shares
from stages.tasks.writing import FORM, NO_NAME, read_write
from stages.yaml_files import read_yaml

SCORES = {"word_score": ("first-token", "whole"), "label_score": ("max", "sum")}
"""How a word and a label may be scored; the first is the paper's way, the last the default."""

KEYS = ("name", "prompt", "suffix", "max_length", "labels", "prior", "write", *SCORES)
REQUIRED = ("prompt", "max_length", "labels")
BUNDLED = Path(__file__).parent
LONGEST = 1_000_000
"""No model reads inputs of more tokens than this; a larger number is a slip of the finger."""


@dataclass(frozen=True)
class Label:
    """One class: its name and the words that stand for it (the verbaliser's words)."""

    name: str
    words: tuple[str, ...]

    @property
    def spoken(self) -> str:
        """What it is called in a prompt: its name, or its first word where that says nothing."""
        return self.words[0] if NO_NAME.fullmatch(self.name) else self.name


@dataclass(frozen=True)
class Task:
    """A prompt around an input, and the labels that an answer is one of."""

    name: str  # short, used in directory names
    prompt: str  # fixed text in front of the input
    suffix: str  # fixed text behind the input, may be empty
    labels: tuple[Label, ...]  # at least two, in the order of the class columns
    max_length: int  # longest input, in tokens of the model's tokenizer
    # ``first-token``: the logit of a word's first token; ``whole``: the logarithmic probability of
    # all its tokens, spellings of it that are as short added up.
    word_score: str = "first-token"
    label_score: str = "max"  # of its words' scores, or ``sum`` of their probabilities
    others: tuple[tuple[str, str], ...] = ()  # further prompts and suffixes, to be averaged with
    prior: str = AUTO  # taken off for students: auto, balanced, none or shares, `label=share,…`
    drawn_behind: str | None = None  # prompt that `unigram` draws its tokens behind; None: its own
    # What a model writes inputs behind, without a label's name and with it; None: the prompt.
    write: str | None = None
    write_labelled: str | None = None

    def split(self) -> tuple[Task, ...]:
        """Return a task for each prompt; all have the rows that are drawn behind the first."""
        first = replace(self, others=())
        return first, *(
            replace(first, prompt=prompt, suffix=suffix, drawn_behind=self.prompt)
            for prompt, suffix in self.others
        )

    def choose_write(self, labelled: bool) -> str | None:
        """Return what a text is written behind; None: there is no ``write``, so the prompt.

        Where all that there is names a label, a text for which none is asked is of one too.
        SettingError: a label is to be named, and what there is has no place for it.
        """
        if labelled and self.write is not None and self.write_labelled is None:
            raise SettingError(
                f"sampler: got 'self-labelled' or 'self-noisy', but {self.name} is written behind "
                f"{self.write!r:.80}, which names no label; write: {FORM}"
            )
        return self.write_labelled if labelled or self.write is None else self.write

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in column order."""
        return tuple(label.name for label in self.labels)

    def describe(self, token_ids: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the task as a cache's manifest states it; scores only where not the paper's.

        What a student is trained with alone, as the prior, is not there, nor ``write``, which the
        inputs state.  ``token_ids`` are what stands for each label word: a token, or the tokens of
        all spellings of a word that is scored whole; None: no model is asked.
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
            **{
                key: own for key, known in SCORES.items() if (own := getattr(self, key)) != known[0]
            },
            **({"others": [list(other) for other in self.others]} if self.others else {}),
        }


def list_tasks() -> tuple[str, ...]:
    """Return the names of the tasks that come with the project."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.yaml")))


def load_task(name_or_path: str | Task) -> Task:
    """Load a bundled task by name or any task from a YAML file; a task is returned as it is.

    A path is anything with a separator or a ``.yaml``/``.yml`` ending.  TaskError: there is no such
    task, the file cannot be read, or its contents are not a task.
    """
    if isinstance(name_or_path, Task):
        return name_or_path
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
        if name_or_path not in list_tasks():
            raise TaskError(
                f"unknown task {name_or_path!r:.80}{suggest(name_or_path, list_tasks())}; a task "
                "of your own is given by the path of its YAML file"
            )
        path = BUNDLED / f"{name_or_path}.yaml"
    data = read_yaml(path, "the task file", TaskError)
    if isinstance(data, dict):
        if re.fullmatch("[0-9]{1,9}", str(data.get("max_length"))):
            data["max_length"] = int(data["max_length"])
        if isinstance(data.get("prior"), dict):
            data["prior"] = ",".join(f"{label}={share}" for label, share in data["prior"].items())
    return parse_task(data, source=str(path), default_name=path.stem)


def restore_task(described: Any, source: str) -> Task:
    """Return the task that :meth:`Task.describe` has described; ``source`` is for messages.

    Raises:
        TaskError: It describes none.
    """
    try:
        labels = {it["name"]: [word for word, _ in it["words"]] for it in described["labels"]}
        paper = {key: known[0] for key, known in SCORES.items()}
        data, name = paper | described | {"labels": labels}, described["name"]
        pairs = [[data["prompt"], data.get("suffix", "")], *data.pop("others", [])]
        if len(pairs) > 1:
            data["prompt"], data["suffix"] = map(list, zip(*pairs, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(f"{source} does not say of which task it is") from error
    return parse_task(data, source, name)


def parse_task(data: object, source: str, default_name: str) -> Task:
    """Turn a parsed YAML document into a task; ``source`` is where it came from, for messages.

    Raises:
        TaskError: Something in the document is not as it must be; the message names it.
    """
    for fault in _find_faults(data, default_name):
        raise TaskError(f"{source}: {fault}")
    usual = {key: known[-1] for key, known in SCORES.items()}
    found: dict[str, Any] = usual | {"name": default_name, "suffix": ""} | data  # type: ignore[operator]
    labels = [Label(name, tuple(words)) for name, words in found.pop("labels").items()]
    if "write" in found:
        found |= read_write(found["write"]) or {}
    (found["prompt"], found["suffix"]), *others = _pair_prompts(found["prompt"], found["suffix"])
    task = Task(**found, labels=tuple(labels), others=tuple(others))
    try:
        parse_shares(task.prior, task.label_names)
    except SettingError as error:
        raise TaskError(f"{source}: {error}") from error
    return task


def _pair_prompts(prompt: Any, suffix: Any) -> list[tuple[Any, Any]]:
    """Pair each prompt with its suffix; one suffix is for all."""
    prompts = prompt if isinstance(prompt, list) else [prompt]
    suffixes = suffix if isinstance(suffix, list) else [suffix] * len(prompts)
    return [*zip(prompts, suffixes, strict=False)]


def _find_faults(data: Any, default_name: str) -> Iterator[str]:
    """Yield what is wrong with a document; nobody reads on behind the first fault."""
    if not isinstance(data, dict):
        yield f"a task is a mapping with the keys {', '.join(KEYS)}, got {type(data).__name__}"
    yield from (f"unknown key {key!r:.80}{suggest(key, KEYS)}" for key in data if key not in KEYS)
    yield from (f"the key {key!r} is missing" for key in REQUIRED if key not in data)
    name, length, labels = data.get("name", default_name), data["max_length"], data["labels"]
    yield from _find_no_text("name", name)
    yield from _find_prompt_faults(data["prompt"], data.get("suffix", ""))
    yield from _find_no_text("prior", data.get("prior", ""))
    if "write" in data and read_write(data["write"]) is None:
        yield f"write: got {data['write']!r:.80}, {FORM}"
    odd = not all(char.isalnum() or char in "-_." for char in name)
    if odd or name[:1] in ("", ".") or len(name) > 100:
        yield (
            f"name {name!r:.80} must be at most 100 letters, digits, '-', '_' and '.', since "
            "directories are named after it"
        )
    if type(length) is not int or not 1 <= length <= LONGEST:
        yield f"max_length: got {length!r:.80}, must be an integer in [1, {LONGEST}]"
    for key, known in SCORES.items():
        if (score := data.get(key, known[0])) not in known:
            yield f"{key}: got {score!r:.80}, must be {' or '.join(known)}"
    if not isinstance(labels, dict):
        yield f"labels must map each label to a list of words, got {type(labels).__name__}"
    if len(labels) < 2:
        yield f"got {len(labels)} label(s), a task needs at least two"
    owners: dict[str, str] = {}
    for label, words in labels.items():
        yield from _find_no_text("label name", label)
        if not label.strip():
            yield "a label has an empty name"
        if label != label.strip() or not label.isprintable():
            yield f"label {label!r:.80} begins or ends with a space, or holds a control character"
        if not isinstance(words, list) or not words:
            yield f"label {label!r:.80} needs a list of at least one word"
        for word in words:
            yield from _find_no_text(f"label {label!r:.80}: word", word)
            if not word.strip():
                yield f"label {label!r:.80} has an empty word"
            if word != word.strip():
                yield f"label {label!r:.80}: the word {word!r:.80} begins or ends with a space"
            if (owner := owners.setdefault(word, label)) != label:
                yield (
                    f"the word {word!r:.80} stands for both {owner!r:.80} and {label!r:.80}; a "
                    "word can answer for one label only"
                )
        if len({*words}) < len(words):
            twice = next(word for word in words if words.count(word) > 1)
            yield f"label {label!r:.80} repeats the word {twice!r:.80}"


def _find_prompt_faults(prompt: Any, suffix: Any) -> Iterator[str]:
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts:
        yield "prompt: got an empty list, must be a text or a list of texts"
    if isinstance(suffix, list) and len(suffix) != len(prompts):
        yield (
            f"suffix: got {len(suffix)} for {len(prompts)} prompt(s), must be one for all or one "
            "for each"
        )
    pairs = _pair_prompts(prompt, suffix)
    for text, behind in pairs:
        yield from _find_no_text("prompt", text)
        yield from _find_no_text("suffix", behind)
        if not text.strip():
            yield "the prompt is empty; say what the model is to decide"
    if len({*pairs}) < len(pairs):
        yield "prompt: one is given twice with the same suffix; each is to ask otherwise"


def _find_no_text(where: str, value: object) -> Iterator[str]:
    if not isinstance(value, str):
        hint = "(for YAML, null and ~ are no text: put it in quotes)"
        yield f"{where}: got {value!r:.80}, must be text {hint}"
