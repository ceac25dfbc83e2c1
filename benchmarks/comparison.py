"""Rows a second and memory of the teacher and its yardsticks: two sections of the benchmark."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.subjects import (
    SMALL,
    TINY,
    Rows,
    Shape,
    draw_rows,
    make_model,
    make_task,
    make_tokenizer,
)
from benchmarks.yardsticks import BATCH_ROWS, Floor, Loop, Ours
from stages.lm import keep_freed_memory
from stages.tasks import build_verbaliser, frame_task
from stages.teacher import Teacher

AGREEMENT = 1e-4
"""How far probabilities may lie apart, in float32."""
OBVIOUS, CAREFUL, OURS, FLOOR = "obvious loop", "careful loop", "ours", "floor"
LOOPS = (OBVIOUS, CAREFUL)
WANTED = (
    {OBVIOUS: "≥ 5", CAREFUL: "≥ 1.2", FLOOR: "≥ 0.7, aim 0.85"},
    {OBVIOUS: "≥ 10", CAREFUL: "≥ 5", FLOOR: "≥ 0.7, aim 0.85"},
)
"""The ratios to be reached behind the short prompt, and behind the long one."""
MIB = 2**20

SPEED = """\
Ratios are of rows a second: the median of {rounds} rounds, in brackets the lowest and the highest.
In a round all take their turn, another one first each time.  The teacher and the floor do all of
{rows} rows, in chunks of 64 of one length, log-uniform; the loops, in batches of {batch}, do some
of the very same rows, of all lengths as often: the obvious one in random order, the careful one
whole batches of rows sorted by length.  Every answer of theirs is compared with the teacher's.
"""
MEMORY = """\
A process for each; over the model is the highest resident size less the size after the model was
made.  The teacher's includes its own making and its trial of batches up to sizes that gain nothing.
The careful loop does the longest batch alone, the obvious one a batch of {batch} rows of all
lengths.
"""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        shape: The model.
        rows: Rows that the teacher and the floor answer in a round.
        rounds: Rounds, in each of which all take their turn.
        obvious: Rows of them that the obvious loop answers, for each prompt.
        careful: Likewise the careful one.
        stage: Rows of the whole stage.
        variants: Rows for each number format.
        profiled: Rows for the profile.
    """

    shape: Shape = SMALL
    rows: int = 512
    rounds: int = 3
    obvious: tuple[int, ...] = (32, 32)
    careful: tuple[int, ...] = (256, 64)
    stage: int = 2048
    variants: int = 96
    profiled: int = 192


QUICK = Effort(TINY, 256, 3, (32, 32), (64, 64), 256, 64, 64)


@dataclass(frozen=True)
class Spread:
    """A median, and how far the rounds lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the median of some values, the lowest and the highest."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        digits = 1 if self.median >= 100 else 2
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


class Contest:
    """The teacher and its yardsticks behind one prompt, with the rows that each answers.

    Attributes:
        tokens: Tokens of the prompt.
        ours: The teacher.
        rows: All rows: the teacher's and the floor's.
        chosen: Indices of the rows of each loop.
        answers: The last answers of each way.
    """

    def __init__(self, effort: Effort, number: int) -> None:
        shape = effort.shape
        self.tokens = shape.prompts[number]
        self.rows = draw_rows(shape, effort.rows)
        self.ours = make_ours(shape, self.tokens, self.rows)
        model, teacher = make_model(shape), self.ours.teacher
        self._loops = {
            name: Loop(model, tuple(teacher.prefix_ids), teacher.verbaliser, name == CAREFUL)
            for name in LOOPS
        }
        around = teacher.positions_around
        self._floor = Floor(shape, self.tokens, list(self.ours.plan(self.rows)), around)
        self.chosen = {
            OBVIOUS: self.rows.choose(effort.obvious[number]),
            CAREFUL: self.rows.choose(effort.careful[number], BATCH_ROWS),
        }
        self.answers: dict[str, np.ndarray] = {}

    def run(self, name: str) -> int:
        """Have a way do its rows once; return how many they are."""
        if name == FLOOR:
            self._floor.run()
            return len(self.rows.lengths)
        if name == OURS:
            self.answers[name] = self.ours.answer(self.rows)
            return len(self.rows.lengths)
        chosen = self.chosen[name]
        self.answers[name] = self._loops[name].answer(self.rows.select(chosen))
        return len(chosen)

    def warm_up(self) -> None:
        """Run everything once that is slow the first time."""
        few = self.rows.select(self.rows.choose(4))
        for loop in self._loops.values():
            loop.answer(few)
        self.ours.answer(few)

    def measure_rates(self, rounds: int) -> dict[str, list[float]]:
        """Return the rows a second of each way in each round; they begin by turns."""
        names = (*LOOPS, OURS, FLOOR)
        rates: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            for name in names[turn % 4 :] + names[: turn % 4]:
                began = time.perf_counter()
                rates[name].append(self.run(name) / (time.perf_counter() - began))
        return rates

    def find_difference(self, name: str) -> float:
        """Return the largest difference of a loop's probabilities from the teacher's.

        Raises:
            RuntimeError: It is more than rounding.
        """
        apart = float(np.abs(self.answers[name] - self.answers[OURS][self.chosen[name]]).max())
        if not apart <= AGREEMENT:
            raise RuntimeError(f"the {name}'s probabilities are {apart:.2g} from the teacher's")
        return apart


def measure_speed(effort: Effort) -> Iterator[str]:
    """Yield the table of rows a second."""
    yield "\n## Rows a second\n"
    yield SPEED.format(rows=effort.rows, rounds=effort.rounds, batch=BATCH_ROWS)
    heads = (
        *("prompt, tokens", "ratio", "measured", "to reach", "ours, rows/s", "other, rows/s"),
        *("other's rows", "their mean tokens", "largest difference of a probability"),
    )
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    notes = []
    for number, tokens in enumerate(effort.shape.prompts):
        contest = Contest(effort, number)
        contest.warm_up()
        rates = contest.measure_rates(effort.rounds)
        for name in (*LOOPS, FLOOR):
            ratio = Spread.of([a / b for a, b in zip(rates[OURS], rates[name], strict=True)])
            lengths = contest.rows.lengths[contest.chosen.get(name, slice(None))]
            apart = f"{contest.find_difference(name):.1e}" if name in LOOPS else ""
            sizes = (len(lengths), f"{lengths.mean():.1f}", apart)
            speeds = (Spread.of(rates[OURS]), Spread.of(rates[name]))
            cells = (tokens, f"ours / {name}", ratio, WANTED[number][name], *speeds, *sizes)
            yield f"| {' | '.join(map(str, cells))} |"
        deviation = contest.answers[OURS][:, 0].std()
        notes.append(
            f"- {tokens} tokens: {contest.ours.teacher.forward_pass.words}; "
            f"{contest.ours.notes[0]}; probabilities have a standard deviation of {deviation:.3f}"
        )
    yield "\n" + "\n".join(notes)


def measure_memory(effort: Effort, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the table of peak memory; ``arguments`` have another process measure the same."""
    yield "\n## Memory\n"
    if not Path("/proc/self/clear_refs").exists():
        yield "Not measured: this system does not say how large a process has been at most."
        return
    yield MEMORY.format(batch=BATCH_ROWS)
    heads = ("prompt, tokens", "", "over the model, MiB", "in all, MiB", "ours / it", "to reach")
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for number, tokens in enumerate(effort.shape.prompts):
        found = {}
        for name in (OURS, *LOOPS):
            command = [sys.executable, "-m", "benchmarks.teacher", *arguments]
            command += ["--memory-of", name, "--prompt", str(number)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(done.stdout)
        for name, sizes in found.items():
            over, whole = sizes["peak"] - sizes["model"], sizes["peak"]
            ratio = (found[OURS]["peak"] - found[OURS]["model"]) / over
            target = "≤ 0.5" if name == OBVIOUS else ""
            cells = (f"{over / MIB:,.0f}", f"{whole / MIB:,.0f}", f"{ratio:.2f}", target)
            yield f"| {' | '.join(map(str, (tokens, name, *cells)))} |"


def measure_own_memory(effort: Effort, name: str, number: int) -> dict[str, int]:
    """Do a way's work in this process, which has done nothing else.

    Returns:
        ``model``: resident bytes once the model is made; ``peak``: the most from then on.
    """
    shape, tokens = effort.shape, effort.shape.prompts[number]
    rows = draw_rows(shape, effort.rows)
    tokenizer, task = make_tokenizer(), make_task(tokens, shape.longest)
    model = make_model(shape)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = read_status("VmRSS")
    if name == OURS:
        keep_freed_memory("cpu")
        ours = Ours.tune(Teacher(model, tokenizer, task), rows.lengths)
        ours.answer(rows.select(rows.choose(len(rows.lengths) // 2)))
    else:
        prompt = frame_task(task, tokenizer).prefix_ids
        loop = Loop(model, prompt, build_verbaliser(task, tokenizer), name == CAREFUL)
        longest = np.argsort(rows.lengths, kind="stable")[-BATCH_ROWS:]
        loop.answer(rows.select(longest if name == CAREFUL else rows.choose(BATCH_ROWS)))
    return {"model": before, "peak": read_status("VmHWM")}


def read_status(field: str) -> int:
    """Return the bytes of a field of this process's status on Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status does not have {field}")


def make_ours(shape: Shape, tokens: int, rows: Rows, device: str = "cpu") -> Ours:
    """Make a model and the teacher around it, with the batches that suit these rows.

    Raises:
        RuntimeError: The tokenizer cuts the prompt into another number of tokens.
    """
    # As the stage does; all yardsticks of this process gain from it.
    keep_freed_memory(device)
    model, task = make_model(shape, device), make_task(tokens, shape.longest)
    teacher = Teacher(model, make_tokenizer(), task)
    if len(teacher.prefix_ids) != tokens:
        raise RuntimeError(f"the prompt is {len(teacher.prefix_ids)} tokens, must be {tokens}")
    return Ours.tune(teacher, rows.lengths)
