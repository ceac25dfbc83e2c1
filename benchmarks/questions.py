"""How real language models are asked in `benchmarks.real`, and what is kept of their answers."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.word_scores import WordScores, make_word_scores
from cache.draw import (
    VocabularySampler,
    build_sampler,
    draw_lengths,
    mix_seeds,
    quantise_distribution,
)
from stages import lm
from stages.inputs import SamplingSettings
from stages.reporter import SilentReporter
from stages.tasks import Task, fit_tokenizer, load_task, load_variants
from stages.teacher import (
    Teacher,
    average_next_token,
    choose_labels,
    find_prompts,
    make_teacher,
    write_texts,
)
from stages.texts import TextRow, encode_texts

MODELS = {
    "qwen": "Qwen2.5-Coder-0.5B-Instruct",
    "gemma3": "Gemma-3-270m",
    "smollm2": "SmolLM2-135M-Instruct",
}
DATA = {"ag_news": "ag_news/test", "reddit": "reddit/test", "emotions": "goemotions/test"}
CONTEXTS, CONTEXT_LENGTH, LONGEST_WRITTEN = 64, 32, 64
BLOCK = 100
"""Test texts whose answers are kept together, so that more texts later are more blocks."""
TRIED_LENGTH = 16
SEED = 0
SETS = ("test", "unigram", "unigram-own", "vocabulary", "self", "labelled")
"""Inputs; the tokens of ``unigram-own`` are those that the model writes its own texts with, and
``labelled`` are texts that it writes for the labels."""


@dataclass(frozen=True)
class Setting:
    """One model asked in one way."""

    model: str
    task: str
    prompt: int = 0
    chat: bool = False

    @property
    def asked(self) -> Task:
        """The task with its prompt."""
        task = load_task(self.task)
        if self.prompt == 0:
            return task
        return load_variants(task)[self.prompt - 1]


class Bench:
    """One model, loaded when it is first asked, and what it has answered before."""

    def __init__(self, args: argparse.Namespace, model: str) -> None:
        self.args, self.name, self.path = args, model, Path(args.models) / model
        self._teachers: dict[Setting, Teacher] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return lm.load_language_tokenizer(lm.resolve_model(str(self.path)))

    @cached_property
    def identity(self) -> str:
        """A hash of the model's files."""
        weights = [*sorted(self.path.glob("*.safetensors")), self.path / "tokenizer.json"]
        return hashlib.sha256(b"".join(_hash(path) for path in weights)).hexdigest()[:16]

    @cached_property
    def model(self) -> Any:
        """The model itself."""
        folder = lm.resolve_model(str(self.path))
        return lm.load_language_model(folder, self.args.device, self.args.dtype, "none")

    def teach(self, setting: Setting) -> Teacher:
        """Return the teacher of one way of asking; the model has one at a time."""
        if setting not in self._teachers:
            for teacher in self._teachers.values():
                teacher.release()
            verbaliser = make_word_scores(setting.asked, self.tokenizer, setting.chat)
            self._teachers = {
                setting: make_teacher(
                    self.model,
                    self.tokenizer,
                    # The ways to run the model are tried on inputs of that length, which is slow.
                    replace(setting.asked, max_length=TRIED_LENGTH),
                    setting.chat,
                    verbaliser,
                    SilentReporter(),
                )
            }
        return self._teachers[setting]

    def has_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.tokenizer.chat_template)

    def recall(self, key: dict[str, Any], make: Any) -> dict[str, np.ndarray]:
        """Return what is kept for a key, made and kept where it is not."""
        other = {} if self.args.dtype == "float32" else {"dtype": self.args.dtype}
        text = json.dumps({"model": self.identity, **other, **key}, sort_keys=True)
        path = Path(self.args.work) / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
        if not path.is_file():
            if self.args.report:
                return {}
            arrays = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".partial.npz")
            np.savez(unfinished, **arrays)
            unfinished.replace(path)
        with np.load(path) as found:
            return dict(found)

    def draw(self, setting: Setting, name: str) -> dict[str, np.ndarray]:
        """Return the tokens (N, longest) and lengths (N,) of a set of inputs, without texts."""
        task, rows = setting.asked, self.args.rows
        # The same rows for every prompt, as a cache a prompt has them.
        first = replace(setting, prompt=0)
        key = {"inputs": name, "task": first.task, "chat": first.chat, "rows": rows, "seed": SEED}
        written = name in ("self", "labelled")
        if written:
            key["rows"] = self.args.written

        def make() -> dict[str, np.ndarray]:
            seeds = mix_seeds(SEED, 0, int(key["rows"]))
            if written:
                longest = min(task.max_length, LONGEST_WRITTEN)
                sampling = SamplingSettings(labelled=name == "labelled")
                tokens = write_texts(self.teach(first), seeds, sampling, longest, _ignore)
                return {"tokens": tokens, "lengths": (tokens >= 0).sum(axis=1).astype(np.int32)}
            lengths = draw_lengths(task.max_length, SEED, 0, rows)
            teacher = self.teach(first)
            if name != "vocabulary":
                if name == "unigram":
                    drawn = VocabularySampler(teacher.table).draw_ids(
                        mix_seeds(SEED, 2**40, CONTEXTS), CONTEXT_LENGTH
                    )
                    contexts, behind = [*torch.from_numpy(drawn)], None
                else:
                    own = self.draw(setting, "self")["tokens"][:CONTEXTS]
                    contexts = [torch.from_numpy(row[row >= 0]).long() for row in own]
                    (behind,) = find_prompts(teacher, labelled=False)
                average = average_next_token(teacher, contexts, prefix_ids=behind)
                thresholds = quantise_distribution(average.numpy())
                sampler = build_sampler("unigram", table=teacher.table, thresholds=thresholds)
                tokens = sampler.draw_ids(seeds, task.max_length)
            else:
                tokens = VocabularySampler(teacher.table).draw_ids(seeds, task.max_length)
            return {"tokens": np.asarray(tokens).astype(np.int32), "lengths": lengths}

        return self.recall(key, make)

    def read(self, setting: Setting) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the tokens of the test texts that are used, and their labels."""
        task = setting.asked
        rows = list(read_test(Path(self.args.data) / f"{DATA[setting.task]}.jsonl.gz", task))
        order = np.random.default_rng(SEED).permutation(len(rows))[: self.args.texts]
        chosen = [rows[k] for k in order]
        cut = fit_tokenizer(task, self.tokenizer, setting.chat)
        texts = encode_texts([row for row, _ in chosen], cut, task.max_length, SilentReporter())
        gold = np.array([column for _, column in chosen])
        return {"tokens": texts.tokens, "lengths": texts.lengths}, gold

    def answer(self, setting: Setting, name: str) -> tuple[Any, np.ndarray | None, WordScores]:
        """Return the scores kept of a set (with seconds), its labels, and what reduces them."""
        task, gold = setting.asked, None
        words = make_word_scores(task, self.tokenizer, setting.chat)
        key: dict[str, Any] = {
            "prompt": task.prompt,
            "suffix": task.suffix,
            "chat": setting.chat,
            "words": words.sequences,
            "set": name,
        }
        if name == "test":
            inputs, gold = self.read(setting)
        else:
            inputs = self.draw(setting, name)
            if not inputs:
                return {}, None, words
            if name == "labelled":
                seeds = mix_seeds(SEED, 0, len(inputs["lengths"]))
                gold = choose_labels(seeds, len(task.labels))

        def make(rows: slice) -> dict[str, np.ndarray]:
            teacher, began = self.teach(setting), time.monotonic()
            scores = teacher.answer_texts(
                inputs["tokens"][rows], inputs["lengths"][rows], self.args.positions, _ignore
            )
            return {"scores": scores, "seconds": np.array(time.monotonic() - began)}

        parts = []
        for begin in range(0, len(inputs["lengths"]), BLOCK):
            rows = slice(begin, begin + BLOCK)
            part = self.recall(
                key | {"tokens": _hash_tokens(inputs, rows)}, lambda rows=rows: make(rows)
            )
            if not part:
                return {}, None, words
            parts.append(part)
        found = {
            "scores": np.concatenate([part["scores"] for part in parts]),
            "seconds": np.array(sum(float(part["seconds"]) for part in parts)),
        }
        print(f"{setting} {name}: {'known' if found else 'not there'}", file=sys.stderr, flush=True)
        return found, gold, words


def read_test(path: Path, task: Task) -> Iterator[tuple[TextRow, int]]:
    """Yield the texts of a test file that have exactly one of the task's labels."""
    names = list(task.label_names)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            label = row.get("ekman", row.get("label"))
            if isinstance(label, list):
                label = label[0] if len(label) == 1 else None
            if label in names:
                yield TextRow(number, row["text"], None), names.index(label)


def _ignore(count: int) -> None:
    """Tell nobody how far it is."""


def _hash_tokens(inputs: dict[str, np.ndarray], rows: slice) -> str:
    tokens, lengths = inputs["tokens"][rows], inputs["lengths"][rows]
    joined = b"|".join(x[:n].astype("<i4").tobytes() for x, n in zip(tokens, lengths, strict=True))
    return hashlib.sha256(joined).hexdigest()[:24]


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
