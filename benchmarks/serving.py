"""Students in use on one core, beside their teacher.

Everything on one thread, tokenizers included.  The teacher is asked as a user would: prompt, text
and suffix in one forward pass of transformers' model for each text, the label words' logits at the
last position, texts cut as the students cut them; and with care: sorted by length, in batches of
64 padded on the left, only the last position's logits computed.  All take turns on the
same texts.  Ratios say how many times faster than the obvious teacher something is; in brackets the
lowest and the highest turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.common import format_head, format_row, rotate, timed
from benchmarks.fixtures import Fixtures, write_onnx
from benchmarks.yardsticks import Loop
from stages.checkpoints import load_tokenizer
from stages.classify import load_onnx_classifier
from stages.classify.torch_classifier import load_torch_classifier
from stages.export import draw_texts
from stages.lm import load_language_model, resolve_model
from stages.tasks import Task, load_task
from stages.texts import read_texts

Answer = Callable[[list[str]], object]
"""Takes texts and answers them; what it says is of no interest here."""

OBVIOUS, PADDED = "mini teacher, a text at a time", "mini teacher, padded batches"
BAG = "TF-IDF + logistic regression"
PADDED_ROWS = 64
"""Texts of a padded batch, as many as students have."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    archs: tuple[str, ...] = ("mini", "distilbert", "static")
    rounds: int = 4  # turns of each in batches
    batch: int = 256  # texts of such a turn
    singles: int = 1000  # texts that each answers one at a time
    block: int = 50  # texts of a turn of those


QUICK = Effort(("static",), 2, 16, 8, 4)


@dataclass
class Times:
    """Seconds of each turn of a batch, and of each text that was answered by itself."""

    turns: list[float] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)


def load_teacher(task: Task) -> tuple[Answer, Answer]:
    """Return the mini teacher behind its prompt, in transformers alone: obvious and padded."""
    folder = resolve_model("mini")
    tokenizer = load_tokenizer(folder)
    model = load_language_model(folder, "cpu", "float32")
    obvious = Loop.of(model, tokenizer, task, careful=False, batch_rows=1)
    padded = Loop.of(model, tokenizer, task, careful=True, batch_rows=PADDED_ROWS)

    def answer(loop: Loop, texts: list[str]) -> np.ndarray:
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return loop.answer([each[: task.max_length] for each in ids])

    return partial(answer, obvious), partial(answer, padded)


def train_bag_of_words(file: Path) -> tuple[Answer, int]:
    """Train scikit-learn's TF-IDF and logistic regression on a file's labels; count its texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = read_texts(file)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([row.text for row in rows], [row.label for row in rows])
    return model.predict_proba, len(rows)


def measure_speed(fixtures: Fixtures, effort: Effort, data: Path | None) -> Iterator[str]:
    """Yield the lines of the section, measured on one thread.

    ``data`` is a folder of ``<task>/{train,test}.jsonl.gz``.
    """
    yield __doc__
    batches = f"{effort.rounds} turns of {effort.batch} texts in batches"
    yield f"{batches}, {effort.singles} texts by themselves.\n"
    students = {arch: fixtures.train_student(arch) for arch in effort.archs}
    onnx = {arch: write_onnx(path, fixtures.folder / arch) for arch, path in students.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with mock.patch.dict(os.environ, {"TOKENIZERS_PARALLELISM": "false"}):
        subjects: dict[str, Answer] = {}
        # Others' loops read first tokens alone.
        task = replace(load_task(fixtures.task), word_score="first-token", label_score="max")
        subjects[PADDED], subjects[OBVIOUS] = reversed(load_teacher(task))
        for arch, path in students.items():
            subjects[f"{arch}, torch"] = load_torch_classifier(path, "cpu").classify
            for name, file in zip(("ONNX", "ONNX int8"), onnx[arch], strict=True):
                classifier = load_onnx_classifier(file, "cpu", threads=1)
                subjects[f"{arch}, {name}"] = classifier.classify
        note = f"{BAG} was left out: it needs --data"
        if data is not None:
            subjects[BAG], learned = train_bag_of_words(data / fixtures.task / "train.jsonl.gz")
            note = f"{BAG} learned from {learned:,} gold labels"
        wanted = max(effort.rounds * effort.batch, effort.singles)
        texts, origin = find_texts(fixtures.task, wanted, data)
        yield from format_speed(measure_times(subjects, texts, effort), effort.batch)
    torch.set_num_threads(threads)
    yield f"\nTask {fixtures.task}; texts: {origin}; {note}."
    yield "Students after a few steps from random starts: what they learn changes no speed."


def find_texts(task: str, wanted: int, data: Path | None) -> tuple[list[str], str]:
    """Return the texts to answer, and what they are."""
    if data is None:
        tokenizer = resolve_model("mini") / "tokenizer.json"
        texts = draw_texts(tokenizer, wanted, load_task(task).max_length)
        return texts, f"{wanted:,} of random tokens of the vocabulary, log-uniform lengths"
    texts = [row.text for row in read_texts(data / task / "test.jsonl.gz")]
    order = np.random.default_rng(0).permutation(len(texts))[:wanted]
    chosen = [texts[k] for k in np.resize(order, wanted)]
    return chosen, f"{len(order):,} of {task}/test.jsonl.gz"


def measure_times(
    subjects: Mapping[str, Answer], texts: list[str], effort: Effort
) -> dict[str, Times]:
    """Have all answer the same texts in turns; :data:`PADDED` in batches alone."""
    times = {name: Times() for name in subjects}
    for answer in subjects.values():
        answer(texts[: min(16, effort.batch)])  # the first pass allocates
    for turn in range(effort.rounds):
        part = texts[turn * effort.batch : (turn + 1) * effort.batch]
        for name in rotate(list(subjects), turn):
            times[name].turns.append(timed(partial(subjects[name], part)))
    for turn, begin in enumerate(range(0, effort.singles, effort.block)):
        for name in rotate([name for name in subjects if name != PADDED], turn):
            # Not text by text: what one left in the processor's caches is no use to the next.
            for text in texts[begin : min(begin + effort.block, effort.singles)]:
                times[name].singles.append(timed(partial(subjects[name], [text])))
    return times


def format_speed(times: Mapping[str, Times], batch: int) -> Iterator[str]:
    """Yield the table of subjects that answered so many texts in each turn."""
    single = ("one text, p50 ms", "times", "one text, p99 ms", "times")
    yield format_head(("", "texts/s in batches", "times", *single))
    base = times[OBVIOUS]
    for name, found in times.items():
        parts = [b / own for b, own in zip(base.turns, found.turns, strict=True)]
        rate = f"{batch * len(found.turns) / sum(found.turns):,.0f}"
        ratio = f"{sum(base.turns) / sum(found.turns):,.1f}"
        cells = [name, rate, f"{ratio} ({min(parts):,.1f}-{max(parts):,.1f})"]
        for percentile in (50, 99):
            if found.singles:
                ours, other = np.percentile([found.singles, base.singles], percentile, axis=1)
                cells += [f"{1000 * ours:.3f}", f"{other / ours:,.1f}"]
            else:
                cells += ["", ""]
        yield format_row(cells)
