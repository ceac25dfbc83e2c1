"""Train students of the mini teacher with the defaults, as the paper does, and in between.

    python -m benchmarks.priors --data DIR --out benchmarks/real.md

DIR holds a folder a data set.  Caches and students are kept under --work, so a run goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from benchmarks.common import format_head, format_row, run_sections
from stages.evaluate import EvaluationConfig, evaluate
from stages.reporter import SilentReporter
from stages.student import StudentConfig, TrainingConfig, run_student
from stages.tasks import load_task
from stages.teacher import TeacherConfig, run_teacher

TASKS = ("reddit", "ag_news", "imdb")
WAYS = {
    "as in the paper": ("first-token", "max", "none"),
    "the defaults": ("whole", "sum", "auto"),
    "prior taken off": ("whole", "sum", "balanced"),
}
"""How words and labels are scored, and the prior."""


def choose_texts(data: Path, task: str, count: int, work: Path) -> Path:
    """Write some lines of a test file, always the same ones, to a file of their own."""
    path = work / f"{task}-{count}.jsonl"
    if not path.is_file():
        lines = gzip.decompress((data / task / "test.jsonl.gz").read_bytes()).splitlines()
        order = np.random.default_rng(0).permutation(len(lines))[:count]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(lines[k] for k in sorted(order.tolist())) + b"\n")
    return path


def write_task(name: str, word: str, label: str, work: Path) -> Path:
    """Write a bundled task whose words are scored in a given way to a file of its own."""
    path = work / f"{name}-{word}-{label}.yaml"
    task = load_task(name)
    content = {
        "name": name,
        "prompt": task.prompt,
        "suffix": task.suffix,
        "max_length": task.max_length,
        "word_score": word,
        "label_score": label,
        "labels": {each.name: list(each.words) for each in task.labels},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def measure(args: argparse.Namespace) -> Iterator[str]:
    """Yield the table, a line for each task and way."""
    yield (
        f"Mini students of {args.rows:,} `unigram` rows of the mini teacher, {args.steps:,} steps; "
        f"{args.texts:,} test texts at most; mean of {args.seeds} seeds, lowest and highest.\n"
    )
    figures = ("accuracy, %", "macro-F1, %", "centred α, rad", "the teacher's accuracy, %")
    yield format_head(["task", "students", "words, prior", *figures])
    for name, (way, (word, label, prior)) in itertools.product(args.tasks, WAYS.items()):
        texts = choose_texts(args.data, name, args.texts, args.work)
        task, cache = str(write_task(name, word, label, args.work)), args.work / "cache"
        filled = run_teacher(
            TeacherConfig(
                task=task,
                model="mini",
                rows=args.rows,
                self_generated=0,
                cache=cache,
                device=args.device,
            ),
            SilentReporter(),
        )
        scores, teachers = [], []
        for seed in range(args.seeds):
            out = args.work / f"{name}-{word}-{label}-{prior}-{seed}"
            config = StudentConfig(
                task=task,
                arch="mini",
                cache=cache,
                source=(filled.cache.fingerprint,),
                prior=prior,
                device=args.device,
                out=out,
                training=TrainingConfig(steps=args.steps, seed=seed),
            )
            angle = run_student(config, SilentReporter()).projection.centred_angle
            teacher = "mini" if seed == 0 else None
            found = evaluate(
                EvaluationConfig(data=texts, model=out, teacher=teacher, device=args.device),
                SilentReporter(),
            )
            assert found.student is not None
            scores.append((100 * found.student.accuracy, 100 * found.student.macro_f1, angle))
            used = found.teacher_without_prior or found.teacher
            teachers += [] if used is None else [used.accuracy]
            print(name, way, seed, scores[-1], file=sys.stderr, flush=True)
        cells = [
            f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
            for values, digits in zip(zip(*scores, strict=True), (1, 1, 3), strict=True)
        ]
        asked = f"{word}, {label}; {prior}"
        yield format_row([name, way, asked, *cells, f"{100 * teachers[0]:.1f}"])


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, and keep the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--work", type=Path, default=Path("data/priors"), help="what is kept")
    parser.add_argument("--out", type=Path, help="Markdown file; its other sections stay")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--rows", type=int, default=16384, help="cached rows a task")
    parser.add_argument("--steps", type=int, default=500, help="steps of a student")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--texts", type=int, default=2000, help="test texts a task")
    args = parser.parse_args(arguments)
    typed = ["benchmarks.priors", *(sys.argv[1:] if arguments is None else arguments)]
    sections = {"Students of mini, as in the paper and with the defaults": lambda: measure(args)}
    run_sections("Real language models", typed, sections, args.out)


if __name__ == "__main__":
    main()
