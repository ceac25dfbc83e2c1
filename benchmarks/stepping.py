"""Steps a second of stage two's loop against a bare loop, for ``benchmarks.student``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.trial import Trial
from cache.reader import CacheReader
from stages.inputs import read_table
from stages.reporter import SilentReporter
from stages.student import Student, TrainingConfig, open_rows, train_student

TARGET = 0.95
HELD_OUT = 1024
BLOCKS = 5
CPU = torch.device("cpu")

INTRODUCTION = """\
Stage two's loop reads its rows from a cache, draws their inputs again from the seeds, and does all
that `pipeline student` does around a step.  The bare loop trains the same model with the same kind
of optimiser on random tensors of the same shapes, which lie in memory, and clips the gradient.  The
two take turns step by step, so that whatever else the machine does hits both; in brackets are the
lowest and the highest of {blocks} parts of the run.  The last column counts the measurements on
held-out rows and the checkpoints as well, which by default come every 100 and 250 steps; it is
empty where the run is too short for any.
"""


class BareLoop:
    """A training loop and nothing else.

    Args:
        student: The model.
        shapes: Rows and tokens of every slice.
        lengths_per_batch: Slices of a step.
        classes: K.
        device: Where it trains; a GPU computes in bfloat16 what stage two has it compute so.
    """

    def __init__(
        self,
        student: Student,
        shapes: Sequence[tuple[int, int]],
        lengths_per_batch: int,
        classes: int,
        device: torch.device = CPU,
    ) -> None:
        chance = torch.Generator().manual_seed(0)
        width = len(student.start)
        self._student, self._slices, self._device = (
            student.to(device).train(),
            lengths_per_batch,
            device,
        )
        self._optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, betas=(0.9, 0.98))
        self._inputs = [
            torch.randn(rows, length, width, generator=chance).to(device) for rows, length in shapes
        ]
        self._answers = [
            torch.rand(rows, classes, generator=chance).softmax(dim=1).to(device)
            for rows, _ in shapes
        ]
        self._step = 0

    def step(self) -> None:
        """Take the next step."""
        first = self._step * self._slices
        for k in range(first, first + self._slices):
            with torch.autocast(self._device.type, torch.bfloat16, self._device.type == "cuda"):
                logits = self._student(self._inputs[k])
            loss = torch.nn.functional.kl_div(
                logits.float().log_softmax(dim=1), self._answers[k], reduction="batchmean"
            )
            (loss / self._slices).backward()
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1


class Turns(SilentReporter):
    """A reporter that has another loop take its steps after the loop's own.

    Args:
        other: Takes a step of the other loop.
        steps: Steps of a turn.
        device: Which is waited for at the end of a turn.

    Attributes:
        own: Seconds of each of the loop's turns, with what it did behind the step before.
        others: Those of the other loop.
    """

    def __init__(
        self, other: Callable[[], None], steps: int = 1, device: torch.device = CPU
    ) -> None:
        super().__init__()
        self._other, self._steps, self._device = other, steps, device
        self.own: list[float] = []
        self.others: list[float] = []

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        """Time turns."""
        begun = self._read_clock()
        taken = 0

        def advance(count: int) -> None:
            nonlocal begun, taken
            taken += count
            if taken % self._steps:
                return
            ended = self._read_clock()
            self.own.append(ended - begun)
            for _ in range(self._steps):
                self._other()
            begun = self._read_clock()
            self.others.append(begun - ended)

        yield advance

    def _read_clock(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass(frozen=True)
class Found:
    """Both loops' speed.

    Attributes:
        own: Steps a second of stage two's loop, in between measurements and checkpoints.
        bare: Steps a second of the bare loop.
        parts: The ratio in each part of the run.
        whole: The ratio with measurements and checkpoints; None: the run was too short for any.
        lengths: Tokens of the shortest slice, of one on average, and of the longest.
        width: Of a token's embedding.
    """

    own: float
    bare: float
    parts: tuple[float, ...]
    whole: float | None
    lengths: tuple[int, float, int]
    width: int


def measure_steps(trial: Trial) -> Iterator[str]:
    """Yield the lines of the section."""
    yield INTRODUCTION.format(blocks=BLOCKS)
    yield (
        "| student | steps | stage two, steps/s | bare, steps/s | ratio | to reach | "
        "ratio, all counted |"
    )
    yield "|---|---|---|---|---|---|---|"
    for arch, steps in trial.effort.steps:
        found = compare_loops(trial, arch, steps)
        low, high = min(found.parts), max(found.parts)
        whole = "" if found.whole is None else f"{found.whole:.3f}"
        yield (
            f"| {arch} | {steps} | {found.own:.2f} | {found.bare:.2f} | "
            f"{found.own / found.bare:.3f} ({low:.3f}-{high:.3f}) | ≥ {TARGET} | {whole} |"
        )
    yield (
        f"\nTask {trial.task}, mini teacher, {trial.effort.rows:,} rows of the vocabulary sampler; "
        f"{TrainingConfig().batch_size} rows a step in {TrainingConfig().lengths_per_batch} lengths_per_batch; random starts; "
        f"{torch.get_num_threads()} threads."
    )


def compare_loops(trial: Trial, arch: str, steps: int, turn: int = 1) -> Found:
    """Train two like students in turns, on the trial's device, and return how fast each was.

    Args:
        trial: What they are trained with.
        arch: Their architecture.
        steps: Steps of each; a multiple of ``turn``.
        turn: Steps of a turn, of which the intervals of measurements and checkpoints are multiples.
    """
    defaults = TrainingConfig()
    config = TrainingConfig(steps=steps, learning_rate=1e-4)
    on_cpu = torch.device(trial.device).type == "cpu"
    accelerator = Accelerator(mixed_precision="no" if on_cpu else "bf16", cpu=on_cpu)
    device = accelerator.device
    table = read_table(trial.cache).to(device)
    source = open_rows(CacheReader(trial.cache), table, config, HELD_OUT, device)
    shapes = [
        (rows.embeddings.shape[0], rows.embeddings.shape[1])
        for rows in itertools.islice(source.open_stream(0), steps * config.lengths_per_batch)
    ]
    bare = BareLoop(
        trial.build_student(arch), shapes, config.lengths_per_batch, source.classes, device
    )
    turns = Turns(bare.step, turn, device)
    checkpoint = trial.folder / f"{arch}.checkpoint"
    train_student(trial.build_student(arch), source, config, accelerator, checkpoint, "", turns)
    checkpoint.unlink()
    own, others = np.array(turns.own), np.array(turns.others)
    numbers = np.arange(len(own)) * turn
    counted = numbers >= max(2, steps // 20)  # the first ones warm up
    more = (numbers % defaults.log_every == 0) | (numbers % defaults.checkpoint_every == 0)
    plain = counted & ~more
    parts = np.array_split(np.flatnonzero(plain), min(BLOCKS, plain.sum()))
    whole = (counted & more).any()
    lengths = [length for _, length in shapes]
    return Found(
        turn * plain.sum() / own[plain].sum(),
        turn * plain.sum() / others[plain].sum(),
        tuple(float(others[part].sum() / own[part].sum()) for part in parts),
        float(others[counted].sum() / own[counted].sum()) if whole else None,
        (min(lengths), sum(lengths) / len(lengths), max(lengths)),
        table.shape[1],
    )
