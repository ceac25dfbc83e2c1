"""Stage two's steps a second beside a bare loop: a section of ``benchmarks.student``."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.functional import kl_div

from benchmarks.comparison import Spread
from cache.reader import CacheReader
from cache.store import Cache
from stages.inputs import read_table
from stages.reporting import SilentReporter
from stages.rows import open_rows
from stages.student import Student, build_encoder
from stages.training import RowSource, TrainingConfig, train_student

WANTED = 0.95
"""The ratio to be reached."""

STEPS = """\
Stage two trains as `pipeline student` does: rows read from the cache, inputs drawn again from their
seeds, the loop of `stages/training.py`.  The bare loop has the same student, AdamW, {slices} slices
of {rows} rows a step and the same clipping, and goes through random tensors that are there already,
of the very lengths of stage two's rows.  {rounds} rounds, in turns; of each turn the first step,
which allocates, is not counted.  Ratios are of steps a second: the median of the rounds, in
brackets the lowest and the highest.
"""


@dataclass(frozen=True)
class StepsEffort:
    """How much is measured.

    Attributes:
        steps: Steps of a turn, by architecture.
        rounds: Rounds.
        rows: Rows a step, in four slices.
        held_out: Rows that a measurement between the steps looks at.
    """

    steps: dict[str, int]
    rounds: int = 5
    rows: int = 64
    held_out: int = 1024


class _Stopwatch(SilentReporter):
    """Notes when each step of stage two has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        """Note the time of every advance."""
        yield lambda count: self.ends.append(time.perf_counter())


@dataclass(frozen=True)
class _Race:
    """One student's training, and what it takes to do the same steps without stage two.

    Attributes:
        make: Makes the student, the same one each time.
        source: The cache's rows.
        config: How it is trained.
        shapes: Of the slices that stage two sees, in their order.
    """

    make: Callable[[], Student]
    source: RowSource
    config: TrainingConfig
    shapes: list[torch.Size]

    def run_stage(self) -> tuple[float, float]:
        """Train as stage two does.

        Returns:
            Seconds a step, and seconds of one measurement and one checkpoint behind the last step.
        """
        watch = _Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            train_student(
                self.make(),
                self.source,
                self.config,
                Accelerator(cpu=True),
                Path(folder) / "checkpoint",
                "",
                watch,
            )
            rest = time.perf_counter() - watch.ends[-1]
        return _average(watch.ends), rest

    def run_bare(self) -> float:
        """Do the same steps on random tensors; return the seconds a step."""
        config, student = self.config, self.make().train()
        parameters = list(student.parameters())
        rate, decay = config.learning_rate, config.weight_decay
        optimizer = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.98), weight_decay=decay)
        chance = torch.Generator().manual_seed(0)
        inputs = {
            shape: (
                torch.randn(shape, generator=chance) * student.start.std(),
                torch.rand(shape[0], self.source.classes, generator=chance).softmax(dim=1),
            )
            for shape in set(self.shapes)
        }
        ends = []
        for step in range(config.steps):
            for shape in self.shapes[step * config.slices : (step + 1) * config.slices]:
                embeddings, wanted = inputs[shape]
                given = student(embeddings).log_softmax(dim=1)
                loss = kl_div(given, wanted, reduction="batchmean") / config.slices
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
            optimizer.zero_grad()
            ends.append(time.perf_counter())
        return _average(ends)


def measure_steps(cache: Cache, effort: StepsEffort) -> Iterator[str]:
    """Yield the table of steps a second."""
    yield "\n## Steps a second of stage two\n"
    slices = TrainingConfig().slices
    yield STEPS.format(rounds=effort.rounds, slices=slices, rows=effort.rows // slices)
    heads = (
        *("student", "parameters", "steps of a turn", "stage two / bare loop", "to reach"),
        *("stage two, steps/s", "bare loop, steps/s", "between steps, seconds", "a step, %"),
    )
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for arch, steps in effort.steps.items():
        race = _prepare(cache, arch, steps, effort)
        stage, bare, rests = [], [], []
        for turn in range(effort.rounds):
            for ours in (True, False) if turn % 2 else (False, True):
                if ours:
                    seconds, rest = race.run_stage()
                    stage.append(seconds)
                    rests.append(rest)
                else:
                    bare.append(race.run_bare())
        ratio = Spread.of([b / s for s, b in zip(stage, bare, strict=True)])
        rates = (Spread.of([1 / seconds for seconds in each]) for each in (stage, bare))
        rest = Spread.of(rests).median
        default = TrainingConfig().log_every
        share = 100 * rest / default / Spread.of(stage).median
        size = sum(p.numel() for p in race.make().parameters())
        cells = (arch, f"{size:,}", steps, ratio, f"≥ {WANTED}", *rates, f"{rest:.2f}")
        yield f"| {' | '.join(map(str, cells))} | {share:.2f} |"
    yield (
        f"\nBetween steps: measuring {effort.held_out:,} held-out rows and writing a checkpoint; the "
        f"last column is what doing both every {TrainingConfig().log_every} steps adds to a step.  "
        f"By default a checkpoint is written every {TrainingConfig().checkpoint_every}."
    )


def _prepare(cache: Cache, arch: str, steps: int, effort: StepsEffort) -> _Race:
    table = read_table(cache)
    inputs = cache.manifest.inputs
    labels = tuple(label["name"] for label in inputs["task"]["labels"])
    config = TrainingConfig(steps=steps, rows=effort.rows, log_every=steps, checkpoint_every=steps)
    source = open_rows(CacheReader(cache), table, config, effort.held_out, torch.device("cpu"))
    few = itertools.islice(source.open_stream(0), steps * config.slices)

    def make() -> Student:
        torch.manual_seed(0)
        encoder = build_encoder(arch, "random", labels, inputs["task"]["max_length"])
        return Student(encoder, table[inputs["start_id"]], float(table.float().std()))

    return _Race(make, source, config, [rows.embeddings.shape for rows in few])


def _average(ends: list[float]) -> float:
    """Return the seconds a step, the first one left out."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)
