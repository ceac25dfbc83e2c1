"""Does reading the cache hold training up?  ``python -m benchmarks.feeding [--task reddit]``.

Trains the mini student the same number of steps on rows read from the cache, inputs regenerated
from their seeds, and on the same rows held in memory as embeddings.  The two take turns in one
process, so that whatever else the machine does hits both; the ratio is of their total times.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from cache.reader import CacheReader
from stages.inputs import read_table
from stages.reporting import SilentReporter
from stages.rows import open_rows
from stages.stage_one import TeacherConfig, run_teacher
from stages.student import Student, build_encoder
from stages.training import Rows, RowSource, TrainingConfig, train_student

STEPS, ROUNDS = 40, 6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="reddit")
    parser.add_argument("--sampler", default="vocabulary")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"))
    options = parser.parse_args()
    teacher = TeacherConfig(
        task=options.task, model="mini", sampler=options.sampler, rows=16384, cache=options.cache
    )
    cache = run_teacher(teacher, SilentReporter()).cache
    table = read_table(cache)
    labels = tuple(label["name"] for label in cache.manifest.inputs["task"]["labels"])
    config = TrainingConfig(steps=STEPS, log_every=STEPS, checkpoint_every=STEPS)
    fed = open_rows(CacheReader(cache), table, config, 64, torch.device("cpu"))
    memory = list(itertools.islice(fed.open_stream(0), STEPS * config.slices))

    def replay(consumed: int) -> Iterator[Rows]:
        return iter(memory[consumed:])

    held = replace(fed, open_stream=replay)
    seconds = {"cache": 0.0, "memory": 0.0}
    for turn in range(ROUNDS + 1):
        for name, source in (("cache", fed), ("memory", held)):
            spent = train_once(source, config, labels, table, cache.manifest.inputs["start_id"])
            if turn:  # the first turn warms up
                seconds[name] += spent
    steps = STEPS * ROUNDS
    print(f"mini student, task {options.task}, sampler {options.sampler}, {steps} steps each")
    for name, spent in seconds.items():
        print(f"  rows from {name:<7} {steps / spent:6.2f} steps a second")
    print(f"  ratio {seconds['memory'] / seconds['cache']:.3f} (to reach: 0.9)")


def train_once(
    source: RowSource,
    config: TrainingConfig,
    labels: tuple[str, ...],
    table: torch.Tensor,
    start_id: int,
) -> float:
    """Train a fresh student; return the seconds of its steps, held-out measurements excluded."""
    torch.manual_seed(0)
    student = Student(build_encoder("mini", "random", labels, 64), table[start_id], 0.02)
    checkpoint = Path("data/feeding.checkpoint")
    quiet = replace(source, held_out=lambda: itertools.islice(source.held_out(), 1))
    began = time.monotonic()
    train_student(student, quiet, config, Accelerator(cpu=True), checkpoint, "", SilentReporter())
    checkpoint.unlink()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
