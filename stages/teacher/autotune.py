"""How rows are run: how many positions at once, in which pass, compiled or not; all measured."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stages.errors import ModelError, SettingError
from stages.reporter import Reporter
from stages.teacher.capabilities import (
    compiler_problem,
    find_layers,
    is_out_of_memory,
    refuse_out_of_memory,
)
from stages.teacher.forward import PackedPass
from stages.teacher.teacher import Teacher

SMALLEST = {"cpu": 512, "cuda": 4096}
"""Positions of the first batch that is tried."""
LARGEST = 2**18
LONGEST_BATCH = 4.0
"""Seconds of a batch: a longer one has long been full, and a stop must not wait for it."""
GAIN = 1.05
"""Larger batches, another pass or compiling must be this much faster to be worth it."""
WORTH_COMPILING = 900.0
"""Seconds of the run: compiling takes a minute or more and saves some percent."""
SECONDS, SAMPLE_SECONDS, MOST_RATE = 1.5, 0.4, 2**18
"""How long passes are timed, and about how long a time; positions a second at most."""
SEEN, LENGTHS = 2**15, 8
"""Rows of which some are timed, as many as a shard has, and how many lengths these have."""


@dataclass(frozen=True)
class Tuning:
    """How the rows of a cache are run through the model."""

    batch_positions: int  # most in one forward pass
    compiled: bool = False
    positions_per_second: float | None = None  # None where it could not be measured
    way: str | None = None  # name of its pass; None: the first that is right


def read_tuning(notes: Mapping[str, Any]) -> Tuning | None:
    """Read what was found when a cache was created; None where its notes do not say."""
    found = notes.get("tuning")
    found = found if isinstance(found, dict) else {}
    positions, compiled, way = (found.get(k) for k in ("batch_positions", "compiled", "way"))
    if type(positions) is not int or positions < 1 or type(compiled) is not bool:
        return None
    return Tuning(positions, compiled, way=way if isinstance(way, str) else None)


def find_tuning(
    teacher: Teacher,
    lengths: np.ndarray,
    batch_positions: int | None,
    compiling: str,
    reporter: Reporter,
) -> Tuning:
    """Try batches of rising size, other passes, then the compiler, and keep what is fastest.

    ``lengths`` are the tokens of all rows, shape (N,); where ``batch_positions`` is given, nothing
    is chosen by the clock but the compiler, and where that is settled too, the same command gives
    the same bits again.  ``compiling`` is ``auto``, ``on``, where it must be possible, or ``off``.
    """
    if batch_positions is None:
        with reporter.track("finding the fastest batch", 1, 0, "batch"):
            found = _find_size(teacher, lengths, reporter)
            if choose_pass(teacher, lengths, *found, reporter):
                found = _find_size(teacher, lengths, reporter)
        eager = Tuning(found[0], False, found[1], teacher.forward_pass.name)
    else:
        reporter.say(f"batch: {batch_positions:,} positions, as asked")
        rate = _try_size(teacher, lengths, batch_positions, reporter)
        eager = Tuning(batch_positions, False, rate, teacher.forward_pass.name)
    if compiling == "off":
        return eager
    problem = find_compiling_problem(teacher)
    if eager.positions_per_second is None:
        problem = f"{teacher.device} has no memory for {eager.batch_positions:,} positions at once"
    elif compiling == "auto" and not problem:
        seconds = (lengths + teacher.positions_around).sum() / eager.positions_per_second
        if seconds < WORTH_COMPILING:
            problem = f"about {seconds:,.0f} s of work, worth it from {WORTH_COMPILING:,.0f} s"
    if problem and compiling == "on":
        raise SettingError(f"compile: got 'on', but {problem}; set it to auto or off")
    if problem:
        reporter.say(f"compile: off ({problem})")
        return eager
    with reporter.track("compiling", 1, 0, "model"):
        return _try_compiling(teacher, lengths, eager, compiling, reporter)


def apply_tuning(teacher: Teacher, tuning: Tuning, reporter: Reporter) -> None:
    """Do as was found when the cache was created, or say why that cannot be."""
    apply_pass(teacher, tuning, reporter)
    reporter.say(
        f"batch: {tuning.batch_positions:,} positions, "
        f"{'compiled' if tuning.compiled else 'not compiled'}, as found when the cache was created"
    )
    if tuning.compiled and (problem := find_compiling_problem(teacher)):
        reporter.warn(
            f"the cache was begun with compiled layers, which cannot be had here ({problem}); "
            "going on without: rows may differ in the last bits"
        )
    elif tuning.compiled:
        compile_layers(teacher)


def apply_pass(teacher: Teacher, tuning: Tuning, reporter: Reporter) -> None:
    """Answer in the pass that a cache was begun with, or say why that cannot be."""
    if tuning.way in (None, teacher.forward_pass.name):
        return
    way = next((way for way in teacher.passes if way.name == tuning.way), None)
    if way is None:
        reporter.warn(
            f"the cache was begun with the forward pass {tuning.way!r:.40}, which is not right "
            f"here; going on with {teacher.forward_pass.name}: rows may differ in the last bits"
        )
    else:
        teacher.use_pass(way)
        reporter.say(f"forward pass: {way.description}, as found when the cache was created")


def find_typical_length(lengths: np.ndarray, around: int) -> int:
    """Return the length of the rows in which half of all positions lie below and half above."""
    rising = np.sort(lengths)
    total = np.cumsum(rising + around)
    return max(1, int(rising[np.searchsorted(total, total[-1] / 2)]))


def measure_rate(teacher: Teacher, length: int, positions: int) -> float:
    """Return the positions a second of batches of one size: the best of a few tries."""
    each = length + teacher.positions_around
    rows = max(1, positions // each)
    inputs = look_up_any(teacher, rows, length)
    times: list[float] = []
    while len(times) < 4 and sum(times) <= LONGEST_BATCH / 4:
        began = time.perf_counter()
        teacher.compute_class_logits(inputs)
        if teacher.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return rows * each / min(times)


def find_compiling_problem(teacher: Teacher) -> str:
    """Return why the layers cannot be compiled, or an empty string."""
    if not isinstance(teacher.forward_pass, PackedPass):
        return "only rows that are packed side by side are run compiled"
    return compiler_problem(teacher.device.type)


def compile_layers(teacher: Teacher) -> None:
    """Have torch compile each layer when it is next run, for batches of any size."""
    for layer in _compilable_layers(teacher):
        layer.compile(dynamic=True)


def _compilable_layers(teacher: Teacher) -> list[torch.nn.Module]:
    # A last layer that is entered twice and left half way is not for a compiler.
    layers = find_layers(teacher.model)
    return layers[:-1] if getattr(teacher.forward_pass, "trims", False) else layers


def _find_size(teacher: Teacher, lengths: np.ndarray, reporter: Reporter) -> tuple[int, float]:
    """Find the fastest size of batch, up to where a larger one gains nothing, and its rate."""
    size, rates = SMALLEST.get(teacher.device.type, 512), dict[int, float]()
    # Once for what is only slow the first time, and to begin with what fits.
    while _try_size(teacher, lengths, size, reporter) is None:
        size //= 2
        length = find_typical_length(lengths, teacher.positions_around)
        if size < length + teacher.positions_around:
            refuse_out_of_memory(MemoryError(), teacher.device, f"a row of {length} tokens")
    while size <= LARGEST and (rate := _try_size(teacher, lengths, size, reporter)) is not None:
        rates[size] = rate
        known = list(rates.values())
        full = len(known) > 2 and max(known[-2:]) < max(known[:-2]) * GAIN
        if full or size / rate > LONGEST_BATCH or size >= lengths.sum():
            break
        size *= 2
    positions = max(rates, key=lambda size: rates[size])
    tried = ", ".join(f"{size:,}: {found:,.0f}" for size, found in rates.items())
    reporter.say(
        f"batch: {positions:,} positions, measured to be fastest (positions a second by size: "
        f"{tried})"
    )
    return positions, rates[positions]


def _try_size(teacher: Teacher, lengths: np.ndarray, size: int, reporter: Reporter) -> float | None:
    """Return positions a second of a size of batch; None where the device has no memory for it."""
    reporter.check_stop()
    try:
        length = find_typical_length(lengths, teacher.positions_around)
        return measure_rate(teacher, length, size)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if teacher.device.type == "cuda":
        torch.cuda.empty_cache()
    reporter.say(f"batch: {teacher.device} has no memory for {size:,} positions at once")
    return None


def _try_compiling(
    teacher: Teacher, lengths: np.ndarray, eager: Tuning, compiling: str, reporter: Reporter
) -> Tuning:
    """Compile the layers, and leave them compiled where that was asked for or is faster."""
    began = time.perf_counter()
    compile_layers(teacher)
    positions, rate = eager.batch_positions, eager.positions_per_second or math.inf
    for size in (positions // 2, positions):  # two sizes, so that no size is taken to be fixed
        _try_size(teacher, lengths, max(1, size), reporter)
    spent = time.perf_counter() - began
    faster = _try_size(teacher, lengths, positions, reporter) or 0.0
    found = f"{faster / rate:.2f} times the speed, compiled in {spent:.0f} s"
    if compiling == "on" or faster >= rate * GAIN:
        reporter.say(f"compile: on ({found})")
        return replace(eager, compiled=True, positions_per_second=faster)
    for layer in _compilable_layers(teacher):
        layer._compiled_call_impl = None
    reporter.say(f"compile: off ({found}: not worth it)")
    return eager


def choose_pass(
    teacher: Teacher, lengths: np.ndarray, positions: int, rate: float, reporter: Reporter
) -> bool:
    """Have the teacher use the fastest pass; returns whether that is another one than before.

    All answer the same rows by turns, in batches of ``positions``, of which the one in use answers
    ``rate`` a second.
    """
    first, rates = teacher.forward_pass, dict.fromkeys(teacher.passes, 0.0)
    if len(rates) == 1:
        return False
    rows = choose_rows(lengths[:SEEN], positions, int(min(rate, MOST_RATE) * SAMPLE_SECONDS))
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for way in rates:
            teacher.use_pass(way)
            start = time.perf_counter()
            try:
                teacher.answer_rows(
                    rows,
                    lambda part, n: look_up_any(teacher, len(part), n),
                    positions,
                    lambda _: reporter.check_stop(),
                )
            except ModelError as error:
                reporter.say(f"not used: {way.name}: {error}")
                continue
            rates[way] = max(rates[way], len(rows) / (time.perf_counter() - start))
    best = max(rates, key=lambda way: rates[way] * (GAIN if way is first else 1))
    teacher.use_pass(best)
    told = ", ".join(f"{way.name}: {found:,.0f}" for way, found in rates.items())
    reporter.say(
        f"forward pass: {best.name}, {'kept' if best is first else 'used instead'} (rows a second "
        f"by pass, on {len(rows):,} rows of this run's lengths: {told})"
    )
    return best is not first


def choose_rows(lengths: np.ndarray, positions: int, most: int) -> np.ndarray:
    """Choose rows to time, by their lengths: a few batches of ``positions``, ``most`` in all.

    Each is of one length, which stands for as many positions of all rows as the others do, and as
    full as the rows of that length make it: not all passes mix lengths.
    """
    rising = np.sort(lengths)
    sums = np.cumsum(rising + 1)
    several = max(1, min(LENGTHS, most // positions))
    marks = (np.arange(several) + 0.5) / several * sums[-1]
    found, count = np.unique(rising, return_counts=True)
    chosen = np.isin(found, rising[np.searchsorted(sums, marks)])
    fitting = np.minimum(count, np.maximum(1, positions // (found + 1)))
    return found[chosen].repeat(fitting[chosen])


def look_up_any(teacher: Teacher, rows: int, length: int) -> torch.Tensor:
    """Return embeddings of whatever tokens, shape (rows, length, d_T), on the teacher's device."""
    ids = (np.arange(rows * length) * 7919 % len(teacher.table)).reshape(rows, length)
    return teacher.look_up(ids)
