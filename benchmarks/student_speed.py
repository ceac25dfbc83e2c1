"""Texts a second and time of one text, on one core: a section of ``benchmarks.student``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparison import Spread
from benchmarks.student_rivals import Answer, ObviousTeacher, load_own_teacher, train_on
from cache.store import Cache
from stages.classifier import Classifier, load_classifier
from stages.comparing import draw_texts
from stages.onnx_classifier import load_onnx_classifier
from stages.publishing import FLOAT32, INT8, ExportConfig, export_student
from stages.reporting import SilentReporter
from stages.stage_two import StudentConfig, run_student
from stages.task import Task
from stages.texts import read_texts
from stages.training import TrainingConfig

EACH, PADDED = "teacher, a text at a time", "teacher, padded batches"
OWN, WORDS = "teacher, as stage one runs it", "TF-IDF + logistic regression"
TOKENIZER = "the tokenizer alone"
FORMS = {"torch": "", "ONNX": FLOAT32, "ONNX int8": INT8}

SPEED = """\
One core (the process is held to one), one thread, float32; of everything the time includes the
tokenizer, where it has one.  Texts a second: all of {texts} texts at once, {rounds} rounds, in each
of which all take their turn and answer them until {least:g} s have passed; the median, in brackets
the lowest and the highest, and the ratio to the teacher within the round.  One text: {single} texts
one by one, those in the middle (p50) and at 99 % (p99) by time, in {rounds} turns.  Size: what has
to be there to answer, tokenizer and word counts included, as files or pickled.

- Texts: {source}.
- The teacher, {teacher}, on prompt + text + suffix of {around} + {mean:.0f} pieces on average: the
  obvious loop over `model(input_ids).logits[:, -1]`, and, for comparison, the batches of stage one.
  Its answers in all three ways are alike within {apart:.1e}.
- {words}: words and pairs of words, trained on {trained}.
- Students: of random start and {steps} steps, which is enough to be as fast as any other.
"""

START = """\
From the start of `pipeline tag --model …` to its end, one text on standard input: the median of
{runs} runs each, in turns, in brackets the lowest and the highest.
"""


@dataclass(frozen=True)
class SpeedEffort:
    """How much is measured.

    Attributes:
        archs: Students.
        texts: Texts that are answered at once.
        single: Texts that are answered one by one.
        rounds: Rounds, in each of which all take their turn.
        least: Seconds a turn lasts at least.
        training: Texts that the statistics are trained on where there are no files.
        runs: Starts of `pipeline tag`.
        steps: Steps of the students.
    """

    archs: tuple[str, ...] = ("static", "mini", "distilbert")
    texts: int = 256
    single: int = 200
    rounds: int = 3
    least: float = 0.5
    training: int = 5000
    runs: int = 7
    steps: int = 4


@dataclass(frozen=True)
class _Rival:
    """Somebody who answers texts.

    Attributes:
        name: Who.
        form: In which form.
        answer: Texts to probabilities.
        size: Bytes of what it needs, or None.
    """

    name: str
    form: str
    answer: Callable[[list[str]], object]
    size: int | None = None


def measure_speed(
    cache: Cache, root: Path, task: Task, data: Path | None, work: Path, effort: SpeedEffort
) -> Iterator[str]:
    """Yield the tables of texts a second and of starts.

    Args:
        cache: The cache to train students on.
        root: Where it lies.
        task: Its task.
        data: Folder of the task's files, or None.
        work: Folder for students and their exports.
        effort: How much is measured.
    """
    yield "\n## Texts a second, and one text\n"
    exports = {
        arch: make_export(cache, root, task, arch, work, effort.steps) for arch in effort.archs
    }
    tokenizer_file = next(iter(exports.values())) / "tokenizer.json"
    texts, source = choose_texts(tokenizer_file, data, task, effort.texts)
    with one_core():
        teacher = ObviousTeacher.load(task)
        own = load_own_teacher(task)
        answers = [teacher.answer_each(texts), teacher.answer_padded(texts), own(texts)]
        apart = max(float(np.abs(other - answers[0]).max()) for other in answers[1:])
        drawn = draw_texts(tokenizer_file, effort.training, task.max_length)
        statistics_, trained = train_on(data, task, drawn, lambda: own(drawn))
        rivals = [
            _Rival(EACH, "torch", teacher.answer_each),
            _Rival(PADDED, "torch", teacher.answer_padded),
            _Rival(OWN, "torch", own),
            *(_Rival(WORDS, "scikit-learn", each) for each in [statistics_] if each is not None),
            *(_Rival(TOKENIZER, "tokenizers", each) for each in [_tokenize(tokenizer_file)]),
        ]
        for arch, folder in exports.items():
            for form, file in FORMS.items():
                rivals.append(_Rival(arch, form, *_load(folder, file)))
        yield SPEED.format(
            texts=len(texts),
            single=min(effort.single, len(texts)),
            rounds=effort.rounds,
            least=effort.least,
            source=source,
            teacher="the bundled mini model",
            around=len(teacher.prefix) + len(teacher.suffix),
            mean=statistics.mean(len(ids) for ids in teacher.encode(texts))
            - len(teacher.prefix)
            - len(teacher.suffix),
            apart=apart,
            words=WORDS if statistics_ is not None else f"{WORDS} (not measured)",
            trained=trained if statistics_ is not None else "nothing; scikit-learn is not there",
            steps=effort.steps,
        )
        rates, seconds = _measure(rivals, texts, effort)
    heads = (
        *("who", "in", "MiB", "texts a second", f"of “{EACH}”", f"of “{PADDED}”"),
        *("one text, p50 ms", "p99 ms", "p50 of the teacher's"),
    )
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    base = np.median(seconds[0])
    for rival, own_rates, own_seconds in zip(rivals, rates, seconds, strict=True):
        p50, p99 = np.percentile(own_seconds, [50, 99])
        ratios = (
            Spread.of([a / b for a, b in zip(own_rates, other, strict=True)]) for other in rates[:2]
        )
        size = "" if rival.size is None else f"{rival.size / 2**20:.1f}"
        times = (f"{1000 * p50:.2f}", f"{1000 * p99:.2f}", f"{p50 / base:.3f}")
        cells = (rival.name, rival.form, size, Spread.of(own_rates), *ratios, *times)
        yield f"| {' | '.join(map(str, cells))} |"
    yield from _measure_starts(exports, texts[0], effort)


def make_export(cache: Cache, root: Path, task: Task, arch: str, folder: Path, steps: int) -> Path:
    """Make a student of random start and few steps, and all of its forms; return their folder."""
    out = folder / f"{task.name}-{arch}"
    config = StudentConfig(
        task=task.name,
        arch=arch,
        init="random",
        cache=root,
        source=cache.fingerprint,
        held_out_rows=64,
        device="cpu",
        out=out,
        training=TrainingConfig(steps=steps, rows=16, log_every=steps),
    )
    run_student(config, SilentReporter())
    return export_student(
        ExportConfig(out, ("onnx", "transformers"), int8=True), SilentReporter()
    ).out


def choose_texts(
    tokenizer_file: Path, data: Path | None, task: Task, count: int
) -> tuple[list[str], str]:
    """Return texts, and where they are from."""
    if data is None:
        drawn = draw_texts(tokenizer_file, count, task.max_length)
        return drawn, (
            "made of random pieces of the vocabulary, 1 to "
            f"{task.max_length} of them, log-uniform; no file was given"
        )
    rows = read_texts(data / "test.jsonl.gz")
    step = max(1, len(rows) // count)
    return [row.text for row in rows[::step]][:count], f"every {step}th of {task.name}'s test file"


@contextmanager
def one_core() -> Iterator[None]:
    """Hold this process to one core and one thread."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def open_form(folder: Path, file: str) -> Classifier:
    """Load one form of an export on one thread: torch's where there is no file."""
    if file:
        return load_onnx_classifier(folder / file, "cpu", threads=1)
    return load_classifier(folder, "cpu")


def _load(folder: Path, file: str) -> tuple[Answer, int]:
    classifier = open_form(folder, file)
    weights = folder / (file or "model.safetensors")
    size = sum(path.stat().st_size for path in (weights, folder / "tokenizer.json"))
    return lambda texts: classifier.classify(texts).probabilities, size


def _tokenize(file: Path) -> Callable[[list[str]], object]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file)).encode_batch_fast


def _measure(
    rivals: list[_Rival], texts: list[str], effort: SpeedEffort
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the rivals' texts a second in each round, and their seconds of each single text."""
    rates: list[list[float]] = [[] for _ in rivals]
    seconds: list[list[float]] = [[] for _ in rivals]
    few = texts[: effort.single]
    for rival in rivals:
        rival.answer(texts[:2])  # what is slow the first time
    for turn in range(effort.rounds):
        order = [(turn + k) % len(rivals) for k in range(len(rivals))]
        for number in order:
            answer, done = rivals[number].answer, 0
            began = time.perf_counter()
            while (spent := time.perf_counter() - began) < effort.least or not done:
                answer(texts)
                done += len(texts)
            rates[number].append(done / spent)
            answer(few[:1])
            for text in few[turn :: effort.rounds]:
                began = time.perf_counter()
                answer([text])
                seconds[number].append(time.perf_counter() - began)
    return rates, seconds


def _measure_starts(exports: dict[str, Path], text: str, effort: SpeedEffort) -> Iterator[str]:
    yield "\n## From the command to the first answer\n"
    yield START.format(runs=effort.runs)
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(effort.runs):
        for arch, folder in exports.items():
            for form, file in FORMS.items():
                command = [sys.executable, "-m", "pipeline", "tag", "--device", "cpu", "--model"]
                began = time.perf_counter()
                subprocess.run(
                    [*command, str(folder / file)],
                    input=text.encode("utf-8", errors="replace"),
                    capture_output=True,
                    check=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
                spent = time.perf_counter() - began
                seconds.setdefault((arch, form), []).append(spent)
    yield "| student | in | seconds | to reach |\n|---|---|---|---|"
    for (arch, form), each in seconds.items():
        wanted = "< 1" if form != "torch" else ""
        yield f"| {arch} | {form} | {Spread.of(each)} | {wanted} |"
