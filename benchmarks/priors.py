"""Train students of the mini teacher with its prior taken off, and with it left in.

    python -m benchmarks.priors --data DIR --out benchmarks/real.md

DIR holds a folder a data set.  Caches and students are kept under --work, so a run goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import format_head, format_row, run_sections
from stages.evaluate import EvaluationConfig, evaluate
from stages.reporter import SilentReporter
from stages.student import StudentConfig, TrainingConfig, run_student
from stages.teacher import TeacherConfig, run_teacher

TASKS = ("imdb", "ag_news", "reddit")
PRIORS = ("none", "balanced")


def choose_texts(data: Path, task: str, count: int, work: Path) -> Path:
    """Write some lines of a test file, always the same ones, to a file of their own."""
    path = work / f"{task}-{count}.jsonl"
    if not path.is_file():
        lines = gzip.decompress((data / task / "test.jsonl.gz").read_bytes()).splitlines()
        order = np.random.default_rng(0).permutation(len(lines))[:count]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(lines[k] for k in sorted(order.tolist())) + b"\n")
    return path


def measure(args: argparse.Namespace) -> Iterator[str]:
    """Yield the table, a line for each task and prior."""
    yield (
        f"Mini students of {args.rows:,} `unigram` rows of the mini teacher, {args.steps:,} steps; "
        f"{args.texts:,} test texts at most; mean of {args.seeds} seeds, lowest and highest.\n"
    )
    yield format_head(
        ["task", "prior", "accuracy, %", "macro-F1, %", "centred α, rad", "the teacher's, %"]
    )
    for task in TASKS:
        texts = choose_texts(args.data, task, args.texts, args.work)
        cache = args.work / "cache"
        filled = run_teacher(
            TeacherConfig(
                task=task, model="mini", rows=args.rows, self_generated=0, cache=cache, device="cpu"
            ),
            SilentReporter(),
        )
        for prior in PRIORS:
            scores, teachers = [], []
            for seed in range(args.seeds):
                out = args.work / f"{task}-{prior}-{seed}"
                config = StudentConfig(
                    task=task,
                    arch="mini",
                    cache=cache,
                    source=(filled.cache.fingerprint,),
                    prior=prior,
                    device="cpu",
                    out=out,
                    training=TrainingConfig(steps=args.steps, seed=seed),
                )
                angle = run_student(config, SilentReporter()).projection.centred_angle
                teacher = "mini" if seed == 0 else None
                found = evaluate(
                    EvaluationConfig(data=texts, model=out, teacher=teacher, device="cpu"),
                    SilentReporter(),
                )
                assert found.student is not None
                scores.append((found.student.accuracy, found.student.macro_f1, angle))
                last = found.teacher_without_prior or found.teacher
                teachers += [] if last is None else [last.accuracy]
                print(task, prior, seed, scores[-1], file=sys.stderr, flush=True)
            accuracy, f1, angles = (
                [each[k] * (1 if k == 2 else 100) for each in scores] for k in range(3)
            )
            cells = [
                f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
                for values, digits in ((accuracy, 1), (f1, 1), (angles, 3))
            ]
            yield format_row([task, prior, *cells, f"{100 * teachers[0]:.1f}"])


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, and keep the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--work", type=Path, default=Path("data/priors"), help="what is kept")
    parser.add_argument("--out", type=Path, help="Markdown file; its other sections stay")
    parser.add_argument("--rows", type=int, default=16384, help="cached rows a task")
    parser.add_argument("--steps", type=int, default=500, help="steps of a student")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--texts", type=int, default=2000, help="test texts a task")
    args = parser.parse_args(arguments)
    typed = ["benchmarks.priors", *(sys.argv[1:] if arguments is None else arguments)]
    sections = {"Students of mini, with the prior and without": lambda: measure(args)}
    run_sections("Real language models", typed, sections, args.out)


if __name__ == "__main__":
    main()
