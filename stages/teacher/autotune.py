"""How many positions to run at once, and whether to compile: measured in seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stages.errors import SettingError
from stages.teacher.capabilities import (
    compiler_problem,
    find_layers,
    is_out_of_memory,
    refuse_out_of_memory,
)
from stages.teacher.forward import PackedPass
from stages.teacher.teacher import Teacher
from stages.teacher.timing import GAIN, choose_pass, look_up_any

if TYPE_CHECKING:
    from stages.reporter import Reporter

SMALLEST = {"cpu": 512, "cuda": 4096}
"""Positions of the first batch that is tried."""
LARGEST = 2**18
LONGEST_BATCH = 4.0
"""Seconds of a batch: a longer one has long been full, and a stop must not wait for it."""
WORTH_COMPILING = 900.0
"""Seconds of the run: compiling takes a minute or more and saves some percent."""


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
    if not isinstance(found, dict):
        return None
    positions, compiled = found.get("batch_positions"), found.get("compiled")
    if type(positions) is not int or positions < 1 or type(compiled) is not bool:
        return None
    name = found.get("way")
    return Tuning(positions, compiled, way=name if isinstance(name, str) else None)


def find_tuning(
    teacher: Teacher,
    lengths: np.ndarray,
    batch_positions: int | None,
    compiling: str,
    reporter: Reporter,
) -> Tuning:
    """Try batches of rising size, other passes, then the compiler, and keep what is fastest.

    ``lengths`` are the tokens of all rows, shape (N,); ``batch_positions``, where it is given, is
    not to be found, and nothing else is then chosen by the clock but the compiler: the same
    command gives the same bits again.  ``compiling`` is ``auto``, ``on``, where it must be
    possible, or ``off``.
    """
    rate: float | None
    if batch_positions is None:
        with reporter.track("finding the fastest batch", 1, 0, "batch"):
            positions, rate = _find_size(teacher, lengths, reporter)
            if choose_pass(teacher, lengths, positions, rate, reporter):
                positions, rate = _find_size(teacher, lengths, reporter)
    else:
        positions = batch_positions
        reporter.say(f"batch: {positions:,} positions, as asked")
        length = find_typical_length(lengths, teacher.positions_around)
        rate = _try_size(teacher, length, positions, reporter)
    name = teacher.forward_pass.name
    if compiling == "off":
        return Tuning(positions, False, rate, name)
    if rate is None:
        problem = f"{teacher.device} has no memory for {positions:,} positions at once"
    else:
        problem = find_compiling_problem(teacher)
        seconds = float((lengths + teacher.positions_around).sum()) / rate
        if compiling == "auto" and not problem and seconds < WORTH_COMPILING:
            problem = f"about {seconds:,.0f} s of work, worth it from {WORTH_COMPILING:,.0f} s"
    if problem and compiling == "on":
        raise SettingError(f"compile: got 'on', but {problem}; set it to auto or off")
    if problem or rate is None:
        reporter.say(f"compile: off ({problem})")
        return Tuning(positions, False, rate, name)
    length = find_typical_length(lengths, teacher.positions_around)
    eager = Tuning(positions, False, rate, name)
    with reporter.track("compiling", 1, 0, "model"):
        return _try_compiling(teacher, length, eager, compiling, reporter)


def apply_tuning(teacher: Teacher, tuning: Tuning, reporter: Reporter) -> None:
    """Do as was found when the cache was created, or say why that cannot be."""
    apply_pass(teacher, tuning, reporter)
    reporter.say(
        f"batch: {tuning.batch_positions:,} positions, "
        f"{'compiled' if tuning.compiled else 'not compiled'}, as found when the cache was created"
    )
    if not tuning.compiled:
        return
    if problem := find_compiling_problem(teacher):
        reporter.warn(
            f"the cache was begun with compiled layers, which cannot be had here ({problem}); "
            "going on without: rows may differ in the last bits"
        )
    else:
        compile_layers(teacher)


def apply_pass(teacher: Teacher, tuning: Tuning, reporter: Reporter) -> None:
    """Answer in the pass that a cache was begun with, or say why that cannot be."""
    name = tuning.way
    if name is None or name == teacher.forward_pass.name:
        return
    for way in teacher.passes:
        if way.name == name:
            teacher.use_pass(way)
            reporter.say(f"forward pass: {way.description}, as found when the cache was created")
            return
    reporter.warn(
        f"the cache was begun with the forward pass {name!r:.40}, which is not right here; going "
        f"on with {teacher.forward_pass.name}: rows may differ in the last bits"
    )


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
    """Find the size of batch that is fastest, and its positions a second."""
    length = find_typical_length(lengths, teacher.positions_around)
    rates = _try_sizes(teacher, length, int(lengths.sum()), reporter)
    positions = max(rates, key=lambda size: rates[size])
    tried = ", ".join(f"{size:,}: {found:,.0f}" for size, found in rates.items())
    reporter.say(
        f"batch: {positions:,} positions, measured to be fastest (positions a second by size: "
        f"{tried})"
    )
    return positions, rates[positions]


def _try_sizes(teacher: Teacher, length: int, total: int, reporter: Reporter) -> dict[int, float]:
    """Return positions a second by size of batch, up to where a larger one gains nothing."""
    size = SMALLEST.get(teacher.device.type, 512)
    # Once for what is only slow the first time, and to begin with what fits.
    while _try_size(teacher, length, size, reporter) is None:
        size //= 2
        if size < length + teacher.positions_around:
            refuse_out_of_memory(MemoryError(), teacher.device, f"a row of {length} tokens")
    rates: dict[int, float] = {}
    while size <= LARGEST:
        rate = _try_size(teacher, length, size, reporter)
        if rate is None:
            break
        rates[size] = rate
        known = list(rates.values())
        full = len(known) > 2 and max(known[-2:]) < max(known[:-2]) * GAIN
        if full or size / rate > LONGEST_BATCH or size >= total:
            break
        size *= 2
    return rates


def _try_size(teacher: Teacher, length: int, size: int, reporter: Reporter) -> float | None:
    """Return positions a second of a size of batch; None where the device has no memory for it."""
    reporter.check_stop()
    try:
        return measure_rate(teacher, length, size)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if teacher.device.type == "cuda":
        torch.cuda.empty_cache()
    reporter.say(f"batch: {teacher.device} has no memory for {size:,} positions at once")
    return None


def _try_compiling(
    teacher: Teacher, length: int, eager: Tuning, compiling: str, reporter: Reporter
) -> Tuning:
    """Compile the layers, and leave them compiled where that was asked for or is faster."""
    began = time.perf_counter()
    compile_layers(teacher)
    positions, rate = eager.batch_positions, eager.positions_per_second or math.inf
    for size in (positions // 2, positions):  # two sizes, so that no size is taken to be fixed
        _try_size(teacher, length, max(1, size), reporter)
    spent = time.perf_counter() - began
    faster = _try_size(teacher, length, positions, reporter) or 0.0
    found = f"{faster / rate:.2f} times the speed, compiled in {spent:.0f} s"
    if compiling == "on" or faster >= rate * GAIN:
        reporter.say(f"compile: on ({found})")
        return replace(eager, compiled=True, positions_per_second=faster)
    for layer in _compilable_layers(teacher):
        layer._compiled_call_impl = None
    reporter.say(f"compile: off ({found}: not worth it)")
    return eager
