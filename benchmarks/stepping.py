"""Steps a second of stage two's loop against a bare loop.

Stage two's loop reads its rows from a cache, draws their inputs again from the seeds, and does all
that `pipeline student` does around a step.  The bare loop trains the same model with the same kind
of optimiser on random tensors of the same shapes, which lie in memory, and clips the gradient.  The
two take turns step by step; in brackets are the lowest and the highest of 5 parts of the
run.  The last column counts the measurements on held-out rows and the checkpoints as well.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import kl_div

from benchmarks.common import format_head, format_row
from benchmarks.fixtures import Fixtures
from cache.reader import CacheReader
from stages.inputs import read_table
from stages.reporter import SilentReporter
from stages.student import Rows, Student, TrainingConfig, join_slices, open_rows, train_student

HELD_OUT = 1024
BLOCKS = 5
CPU = torch.device("cpu")


def train_barely(
    student: Student,
    shapes: Sequence[tuple[int, int]],
    lengths_per_batch: int,
    classes: int,
    device: torch.device = CPU,
) -> Iterator[None]:
    """Train on random tensors that lie on the device, a step each time, and do nothing else.

    Args:
        student: The model; a GPU computes in bfloat16.
        shapes: Rows and tokens of every chunk.
        lengths_per_batch: Input lengths of a step, a chunk for each.
        classes: K.
        device: Where it trains.
    """
    generator = torch.Generator().manual_seed(0)
    student.to(device).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, betas=(0.9, 0.98))
    inputs = [torch.randn(*shape, len(student.start), generator=generator) for shape in shapes]
    answers = [torch.rand(rows, classes, generator=generator).softmax(dim=1) for rows, _ in shapes]
    chunks = [Rows(x.to(device), y.to(device)) for x, y in zip(inputs, answers, strict=True)]
    steps = [chunks[k : k + lengths_per_batch] for k in range(0, len(chunks), lengths_per_batch)]
    for passes in [join_slices(step, device.type == "cuda") for step in steps]:
        for rows, _ in passes:
            with torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
                logits = student(rows.embeddings, rows.mask).float()
            loss = kl_div(logits.log_softmax(dim=1), rows.probabilities, reduction="batchmean")
            (loss / len(passes)).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


class Turns(SilentReporter):
    """A reporter that has the bare loop take its steps after stage two's.

    ``stage`` are the seconds of each of stage two's turns, with what it did behind the step before.
    """

    stage: list[float]
    bare: list[float]

    def __init__(self, other: Iterator[None], steps: int, device: torch.device) -> None:
        super().__init__()
        self._other, self._steps, self._device = other, steps, device
        self.stage, self.bare = [], []

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        """Time turns."""
        start, taken = self._read_clock(), 0

        def advance(count: int) -> None:
            nonlocal start, taken
            taken += count
            if count and taken % self._steps == 0:
                ended = self._read_clock()
                self.stage.append(ended - start)
                for _ in range(self._steps):
                    next(self._other)
                start = self._read_clock()
                self.bare.append(start - ended)

        yield advance

    def _read_clock(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass(frozen=True)
class Found:
    """Both loops' speed."""

    stage: float  # steps a second of stage two's loop, between measurements and checkpoints
    bare: float  # steps a second of the bare loop
    parts: tuple[float, ...]  # the ratio in each part of the run
    whole: float | None  # with measurements and checkpoints; None: too short a run for any
    inputs: str  # what a step reads


def measure_steps(fixtures: Fixtures, steps: dict[str, int]) -> Iterator[str]:
    """Yield the lines of the section, for so many steps of each architecture."""
    yield __doc__
    heads = ("student", "steps", "stage two, steps/s", "bare, steps/s", "ratio", "to reach")
    yield format_head((*heads, "ratio, all counted"))
    for arch, count in steps.items():
        found = compare_loops(fixtures, arch, count)
        ratio = f"{found.stage / found.bare:.3f} ({min(found.parts):.3f}-{max(found.parts):.3f})"
        whole = "" if found.whole is None else f"{found.whole:.3f}"
        rates = (f"{found.stage:.2f}", f"{found.bare:.2f}")
        yield format_row((arch, count, *rates, ratio, "≥ 0.95", whole))
    yield f"\nTask {fixtures.task}, random starts; {found.inputs}."


def compare_loops(fixtures: Fixtures, arch: str, steps: int, turn: int = 1) -> Found:
    """Train two like students in turns, on one device, and return how fast each was.

    Args:
        fixtures: What they are trained with.
        arch: Their architecture.
        steps: Steps of each; a multiple of ``turn``.
        turn: Steps of a turn, of which the intervals of measurements and checkpoints are multiples.
    """
    config = TrainingConfig(steps=steps, learning_rate=1e-4)
    on_cpu = torch.device(fixtures.device).type == "cpu"
    accelerator = Accelerator(mixed_precision="no" if on_cpu else "bf16", cpu=on_cpu)
    device = accelerator.device
    table = read_table(fixtures.cache).to(device)
    source = open_rows([CacheReader(fixtures.cache)], table, config, HELD_OUT, device)
    count = config.lengths_per_batch
    classes = next(iter(source.held_out())).probabilities.shape[1]
    shapes = [
        (rows.embeddings.shape[0], rows.embeddings.shape[1])
        for rows in itertools.islice(source.open_stream(0), steps * count)
    ]
    if not on_cpu:
        # A GPU loads a kernel when it first meets a shape, which would be stage two's turn.
        met = {max(n for _, n in shapes[k : k + count]): k for k in range(0, len(shapes), count)}
        warm = [shape for k in met.values() for shape in shapes[k : k + count]]
        deque(train_barely(fixtures.build_student(arch), warm, count, classes, device), 0)
    bare = train_barely(fixtures.build_student(arch), shapes, count, classes, device)
    turns = Turns(bare, turn, device)
    checkpoint = fixtures.folder / f"{arch}.checkpoint"
    train_student(fixtures.build_student(arch), source, config, accelerator, checkpoint, "", turns)
    checkpoint.unlink()
    stage, others = np.array(turns.stage), np.array(turns.bare)
    numbers = np.arange(len(stage)) * turn
    counted = numbers >= max(2, steps // 20)  # the first ones warm up
    more = (numbers % config.log_every == 0) | (numbers % config.checkpoint_every == 0)
    plain = counted & ~more
    parts = np.array_split(np.flatnonzero(plain), min(BLOCKS, plain.sum()))
    lengths = [length for _, length in shapes]
    return Found(
        turn * plain.sum() / stage[plain].sum(),
        turn * plain.sum() / others[plain].sum(),
        tuple(float(others[part].sum() / stage[part].sum()) for part in parts),
        float(others[counted].sum() / stage[counted].sum()) if (counted & more).any() else None,
        f"{config.batch_size} rows a step, {count} input lengths per step, {min(lengths)} to "
        f"{max(lengths)} tokens, {np.mean(lengths):.0f} on average, {table.shape[1]} wide, of "
        f"{fixtures.rows:,} rows of the mini teacher's cache",
    )
