"""Students in use on one core, beside their teacher, for ``benchmarks.student``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.rivals import PromptedTeacher, train_bag_of_words
from benchmarks.trial import Effort, Trial, write_onnx
from stages.classify import Classifier, load_onnx_classifier
from stages.classify.torch_classifier import load_torch_classifier
from stages.export import draw_texts
from stages.lm import resolve_model
from stages.records import read_record
from stages.tasks import load_task
from stages.texts import read_texts

Answer = Callable[[list[str]], object]
"""Takes texts and answers them; what it says is of no interest here."""

OBVIOUS = "mini teacher, a text at a time"

INTRODUCTION = """\
Everything on one thread, tokenizers included.  The teacher is asked as a user would: prompt, text
and suffix in one forward pass of transformers' model for each text, the label words' logits at the
last position, texts cut as the students cut them; and with care: sorted by length, in batches of
{rows} padded on the left, only the last position's logits computed.  In batches each gets {batch}
texts at once, {rounds} times; one at a time each answers {singles} texts.  All take turns on the
same texts.  Ratios say how many times faster than the obvious teacher something is; in brackets the
lowest and the highest turn.
"""


@dataclass
class Times:
    """Seconds of one subject.

    Attributes:
        turns: Of each turn of a batch.
        singles: Of each text that was answered by itself.
    """

    turns: list[float]
    singles: list[float]


def measure_speed(trial: Trial, data: Path | None, given: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of the section.

    Args:
        trial: Makes students that are not given.
        data: Folder of ``<task>/{train,test}.jsonl.gz``.
        given: Students' directories.
    """
    effort = trial.effort
    yield INTRODUCTION.format(
        rows=64, batch=effort.batch, rounds=effort.rounds, singles=effort.singles
    )
    with one_thread():
        students = {read_record(path)["arch"]: path for path in given}
        students = students or {arch: trial.train_student(arch) for arch in effort.archs}
        files = {
            arch: write_onnx(path, trial.folder / "onnx" / arch) for arch, path in students.items()
        }
        teacher = PromptedTeacher.load(load_task(trial.task))
        subjects: dict[str, Answer] = {OBVIOUS: teacher.tag_each}
        batched: dict[str, Answer] = {"mini teacher, padded batches": teacher.tag_padded}
        for arch, path in students.items():
            subjects[f"{arch}, torch"] = load_torch_classifier(path, "cpu").classify
            for name, file in zip(("ONNX", "ONNX int8"), files[arch], strict=True):
                found: Classifier = load_onnx_classifier(file, "cpu", threads=1)
                subjects[f"{arch}, {name}"] = found.classify
        words = "TF-IDF + logistic regression was left out: it needs --data"
        if data is not None:
            tag, learned = train_bag_of_words(data / trial.task / "train.jsonl.gz")
            subjects["TF-IDF + logistic regression"] = tag
            words = f"TF-IDF + logistic regression learned from {learned:,} gold labels"
        texts, origin = find_texts(trial, data)
        yield from format_speed(measure_times(subjects, batched, texts, effort), effort.batch)
        yield f"\nTask {trial.task}; texts: {origin}; {words}."
        yield (
            "Students given."
            if given
            else "Students after a few steps from random starts: what they learn changes no speed."
        )
        first = next(iter(students))
        yield from measure_starts(first, students[first], files[first][0], effort.starts)


def find_texts(trial: Trial, data: Path | None) -> tuple[list[str], str]:
    """Return the texts to answer, and what they are."""
    wanted = max(trial.effort.rounds * trial.effort.batch, trial.effort.singles)
    if data is not None:
        file = data / trial.task / "test.jsonl.gz"
        texts = [row.text for row in read_texts(file)]
        order = np.random.default_rng(0).permutation(len(texts))
        texts = [texts[k] for k in order[:wanted]]
        origin = f"{len(texts):,} of {trial.task}/{file.name}"
    else:
        tokenizer = resolve_model("mini") / "tokenizer.json"
        texts = draw_texts(tokenizer, wanted, load_task(trial.task).max_length)
        origin = f"{wanted:,} of random tokens of the vocabulary, log-uniform lengths"
    tokens = -(-wanted // len(texts))
    return (texts * tokens)[:wanted], origin


def measure_times(
    subjects: Mapping[str, Answer],
    batched: Mapping[str, Answer],
    texts: list[str],
    effort: Effort,
) -> dict[str, Times]:
    """Have all answer the same texts in turns, another one first each time.

    Args:
        subjects: Those that answer in batches and one at a time, the obvious teacher among them.
        batched: Those that answer in batches alone.
        texts: At least as many as are asked for.
        effort: How much.
    """
    every = {**batched, **subjects}
    times = {name: Times([], []) for name in every}
    for answer in every.values():
        answer(texts[: min(16, effort.batch)])  # the first pass allocates
    for turn in range(effort.rounds):
        part = texts[turn * effort.batch : (turn + 1) * effort.batch]
        for name in rotate(list(every), turn):
            begun = time.perf_counter()
            every[name](part)
            times[name].turns.append(time.perf_counter() - begun)
    for turn, begin in enumerate(range(0, effort.singles, effort.block)):
        for name in rotate(list(subjects), turn):
            # Not text by text: what one left in the processor's caches is no use to the next.
            for text in texts[begin : min(begin + effort.block, effort.singles)]:
                begun = time.perf_counter()
                subjects[name]([text])
                times[name].singles.append(time.perf_counter() - begun)
    return times


def rotate(names: list[str], turn: int) -> list[str]:
    """Return the names with another one first each turn."""
    first = turn % len(names)
    return names[first:] + names[:first]


def format_speed(times: Mapping[str, Times], batch: int) -> Iterator[str]:
    """Yield the table of subjects that answered so many texts in each turn."""
    yield "|  | texts/s in batches | times | one text, p50 ms | times | one text, p99 ms | times |"
    yield "|---|---|---|---|---|---|---|"
    base = times[OBVIOUS]
    for name, found in times.items():
        parts = [b / own for b, own in zip(base.turns, found.turns, strict=True)]
        ratio = sum(base.turns) / sum(found.turns)
        cells = [
            name,
            f"{batch * len(found.turns) / sum(found.turns):,.0f}",
            f"{ratio:,.1f} ({min(parts):,.1f}-{max(parts):,.1f})",
        ]
        for percentile in (50, 99):
            if found.singles:
                own = float(np.percentile(found.singles, percentile))
                other = float(np.percentile(base.singles, percentile))
                cells += [f"{1000 * own:.3f}", f"{other / own:,.1f}"]
            else:
                cells += ["", ""]
        yield "| " + " | ".join(cells) + " |"


def measure_starts(arch: str, student: Path, onnx: Path, count: int) -> Iterator[str]:
    """Yield lines on how long `pipeline tag` takes from its start to its first tag."""
    seconds: dict[str, list[float]] = {"ONNX": [], "torch": []}
    for _ in range(count):
        for name, model in (("ONNX", onnx), ("torch", student)):
            seconds[name].append(time_start(model))
    counted = {name: each[1:] for name, each in seconds.items()}
    yield (
        f"\n`pipeline tag` with the {arch} student, from the process's start to its first tag, "
        f"median of {count - 1} runs after one that does not count:\n"
    )
    yield "|  | seconds | lowest-highest | to reach |"
    yield "|---|---|---|---|"
    for name, each in counted.items():
        target = "< 1" if name == "ONNX" else ""
        yield (
            f"| {arch}, {name} | {statistics.median(each):.2f} | "
            f"{min(each):.2f}-{max(each):.2f} | {target} |"
        )


def time_start(model: Path) -> float:
    """Return the seconds from starting `pipeline tag` to its first answer."""
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "tag", "--model", model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"Thank you so much, this made my day!\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        seconds = time.perf_counter() - begun
        process.stdin.close()
        log = process.stderr.read().decode(errors="replace")
    if process.returncode or not answer:
        raise RuntimeError(f"pipeline tag --model {model} failed: {log}")
    return seconds


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch and the tokenizers to one thread each."""
    threads, name = torch.get_num_threads(), "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    torch.set_num_threads(1)
    os.environ[name] = "false"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
