"""Measure real language models as teachers: as they answer, and in every way that is better.

    python -m benchmarks.real --models DIR --data DIR --out benchmarks/real.md

DIR of models holds smollm2, gemma3 and qwen as transformers directories (or links to others), DIR
of data a folder a data set.  What a model answers is kept under --work, so a run goes on where
it stopped; the table is written anew after every part.  Defaults were chosen on it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import format_head, format_row, run_sections
from benchmarks.questions import DATA, MODELS, SETS, Bench, Setting
from benchmarks.word_scores import WordScores
from stages.metrics import compute_scores, fit_prior
from stages.tasks import load_task


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, shape (N, K), float32."""
    return torch.from_numpy(logits).softmax(dim=1).numpy()


WAYS = ("chat", "prompts")
TEXTS = 2000


@dataclass(frozen=True)
class Line:
    """One line of the table: how it was asked, and how it did."""

    accuracy: float
    macro_f1: float
    shares: tuple[float, ...]

    def __str__(self) -> str:
        shares = " / ".join(f"{share:.0%}"[:-1] for share in self.shares)
        return f"{self.accuracy:.1%}"[:-1] + f" ({self.macro_f1:.1%}"[:-1] + f"; {shares})"


def judge(logits: np.ndarray, gold: np.ndarray, names: tuple[str, ...]) -> Line:
    """Compare answers, class logits (N, K), with the right columns (N,)."""
    given = logits.argmax(axis=1)
    scores = compute_scores(gold, given, names, 0.0)
    shares = np.bincount(given, minlength=len(names)) / len(given)
    return Line(scores.accuracy, scores.macro_f1, tuple(shares.tolist()))


def take_prior(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take the prior of some rows' class logits off others'."""
    return np.asarray(logits - np.array(fit_prior(softmax(rows)).biases))


def take_mean(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take the mean log-probability of some rows off others' class logits, the other estimate."""
    return np.asarray(logits - np.log(softmax(rows)).mean(axis=0))


def list_settings(bench: Bench) -> list[tuple[Setting, tuple[str, ...]]]:
    """Return what is asked of a model, the most telling first, and on which sets of inputs."""
    random, ways = ("test", *bench.args.sets), bench.args.ways
    plain = tuple(name for name in random if name in ("test", "unigram", "labelled"))
    found: list[tuple[Setting, tuple[str, ...]]] = [(Setting(bench.name, t), random) for t in DATA]
    if "chat" in ways and bench.has_chat():
        found += [(Setting(bench.name, task, chat=True), plain) for task in DATA]
    for prompt in (1, 2) if "prompts" in ways else ():
        found += [(Setting(bench.name, task, prompt), plain) for task in DATA]
    return found


def describe_setting(bench: Bench, setting: Setting, sets: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of the table on one way of asking."""
    names = setting.asked.label_names
    kept = {name: bench.answer(setting, name) for name in sets}
    if not kept["test"][0]:
        return
    (tested, gold, words) = kept["test"]
    way = f"prompt {setting.prompt + 1}" + (", chat" if setting.chat else "")
    for word, label in (
        ("first-token", "max"),
        ("first-token", "sum"),
        ("whole", "max"),
        ("whole", "sum"),
    ):
        logits = words.reduce(tested["scores"], word, label)
        if logits is None or gold is None:
            continue
        cells: list[object] = [judge(logits, gold, names)]
        for name in (*bench.args.sets, "test"):
            rows = kept[name][0] if name in kept else {}
            other = words.reduce(rows["scores"], word, label) if rows else None
            for take in (take_prior, take_mean):
                cells.append("–" if other is None else judge(take(logits, other), gold, names))
        cells.append(_count_named(kept["labelled"], word, label) if "labelled" in kept else "–")
        seconds = f"{float(tested['seconds']):.0f}"
        yield format_row(
            [MODELS[bench.name], setting.task, way, f"{word}, {label}", *cells, seconds]
        )


def _count_named(kept: tuple[Any, np.ndarray | None, WordScores], word: str, label: str) -> str:
    """Return the share of labelled texts whose label is named, in %, without their prior too."""
    scores, wanted, words = kept
    logits = words.reduce(scores["scores"], word, label) if scores else None
    if logits is None:
        return "–"
    hits = ((each.argmax(axis=1) == wanted).mean() for each in (logits, take_prior(logits, logits)))
    return ", ".join(f"{hit:.1%}"[:-1] for hit in hits)


def describe_average(bench: Bench, task: str) -> Iterator[str]:
    """Yield the lines on three prompts averaged, their priors taken off first."""
    for word, label in (("first-token", "max"), ("whole", "max"), ("whole", "sum")):
        plain, calibrated, gold = [], [], None
        for prompt in range(3):
            setting = Setting(bench.name, task, prompt)
            (tested, gold, words), rows = (bench.answer(setting, x) for x in ("test", "unigram"))
            if not tested or not rows[0]:
                return
            logits = words.reduce(tested["scores"], word, label)
            other = words.reduce(rows[0]["scores"], word, label)
            if logits is None or other is None:
                return
            plain.append(np.log(softmax(logits)))
            calibrated.append(np.log(softmax(take_prior(logits, other))))
        if gold is not None:
            names = load_task(task).label_names
            cells = [judge(np.mean(x, axis=0), gold, names) for x in (plain, calibrated)]
            missing = "–" * (2 * len(bench.args.sets) + 3)
            yield format_row(
                [MODELS[bench.name], task, "3 prompts", f"{word}, {label}", *cells, *missing]
            )


def measure(bench: Bench, task: str) -> Iterator[str]:
    """Ask one model about one task in every way, and yield the table."""
    args = bench.args
    names = load_task(task).label_names
    yield (
        f"{args.texts:,} test texts at most, {args.rows:,} random rows, {args.written:,} texts "
        f"that the model wrote; accuracy in % (macro-F1; answers given to {', '.join(names)} in %)."
        "\n"
    )
    heads = ["model", "task", "asked", "scored", "as it answers"]
    for name in (*args.sets, "the test texts (not allowed)"):
        heads += [f"prior of {name}", "the same, mean log-probability"]
    yield format_head([*heads, "labels named of own texts, the same with their prior off", "s"])
    for setting, sets in list_settings(bench):
        if setting.task == task:
            yield from describe_setting(bench, setting, sets)
    if "prompts" in args.ways:
        yield from describe_average(bench, task)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="directory of the models")
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--work", type=Path, default=Path("data/real"), help="what is kept")
    parser.add_argument("--out", type=Path, help="Markdown file; its other sections stay")
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tasks", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--texts", type=int, default=TEXTS, help="test texts a task")
    parser.add_argument("--rows", type=int, default=512, help="random rows a set")
    parser.add_argument("--written", type=int, default=128, help="texts that the model writes")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, help="what else is asked")
    parser.add_argument("--sets", nargs="*", default=SETS[1:], choices=SETS[1:], help="priors of")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--positions", type=int, default=1024, help="most in one forward pass")
    parser.add_argument("--report", action="store_true", help="ask no model: write what is kept")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for, and keep the tables."""
    args = parse_arguments(arguments)
    typed = ["benchmarks.real", *(sys.argv[1:] if arguments is None else arguments)]
    benches = {model: Bench(args, model) for model in args.only}
    size = "" if args.texts == TEXTS else f", {args.texts:,} texts"
    size += "" if args.dtype == "float32" else f", {args.dtype}"
    sections: dict[str, Callable[[], Iterator[str]]] = {
        f"Teachers: {MODELS[model]}, {task}{size}": partial(measure, benches[model], task)
        for task in args.tasks
        for model in args.only
    }
    run_sections("Real language models", typed, sections, args.out)


if __name__ == "__main__":
    main()
