"""A teacher as large as Llama-2-7b on a GPU: tokens a second against the device's peak."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import timed
from benchmarks.gpu.parts import Found, Setting
from benchmarks.gpu.table import CAREFUL, COMPILED, KERNELS, OURS, PEAK
from benchmarks.subjects import (
    LLAMA_7B,
    TINY,
    Rows,
    Shape,
    draw_lengths,
    draw_rows,
    make_model,
    make_task,
    make_tokenizer,
)
from benchmarks.yardsticks import BATCH_ROWS, Loop, Ours
from stages.teacher import Teacher

MILLION = 1_000_000
COMPARED = 64
"""Rows whose answers are kept, to compare all ways."""
PRODUCTS, ROUNDS = 10, 20
TOP = 10


@dataclass(frozen=True)
class Load:
    """What a device is measured with."""

    shape: Shape
    tokens: int  # about how many the teacher answers, for each kind of lengths
    share: float  # of the rows that the loops answer
    side: int  # of the matrices whose product gives the peak
    whole: int  # rows of the run that batches are to suit


FULL = Load(LLAMA_7B, 600_000, 0.25, 8192, MILLION)
QUICK = Load(TINY, 1500, 0.5, 128, 1000)


def teacher(name: str, setting: Setting, seconds: float) -> Found:
    """Measure a row of :data:`benchmarks.gpu.table.ROWS`."""
    return _make_bench(setting).measure(name)


@functools.cache
def _make_bench(setting: Setting) -> Bench:
    if setting.quick:  # traced, and not for minutes compiled
        torch.compile = functools.partial(torch.compile, backend="eager")
    return Bench(QUICK if setting.quick else FULL, setting.device)


class Bench:
    """A large model on one device, one way to run it in memory at a time."""

    def __init__(self, load: Load, device: str) -> None:
        self._load, self._device = load, device
        self._cuda = torch.device(device).type == "cuda"
        self._tokenizer = make_tokenizer()
        self._task = make_task(load.shape.prompts[0], load.shape.longest)
        self._held: Any = None
        self._way = ""
        self._tuned: dict[str, tuple[Ours, dict[str, Any]]] = {}
        # By every process anew: a share is of the peak that was there beside it.
        self._rates = measure_peak(load.side, device)

    def measure(self, name: str) -> Found:
        """Measure a row."""
        if name == PEAK:
            middle, side = statistics.median(self._rates) / 1e12, f"{self._load.side:,}"
            note = f"peak: the best of {ROUNDS} rounds of {PRODUCTS} products of {side} × {side} "
            note += f"matrices in bfloat16; their median is {middle:.0f}"
            return [{"name": name, "tflops": max(self._rates) / 1e12}], [note], ""
        way, kind = name.split(", ")
        every = self._draw(kind)
        if name == KERNELS:
            return self._profile(self._tune(OURS, kind)[0], every)
        if way in (OURS, COMPILED):
            ours, line = self._tune(way, kind)
            line = line | self._run(ours.answer, every, True) | compare(ours.answer, every)
            path = (ours.teacher.forward_pass.description, *ours.teacher.fallbacks, *ours.notes)
            return [{"name": name} | line], [f"{name}: {note}" for note in path], ""
        model = self._hold("loop", self._make_model)
        loop = Loop.of(model, self._tokenizer, self._task, way == CAREFUL)
        count = max(BATCH_ROWS, int(len(every.lengths) * self._load.share))
        rows = every.select(every.choose(count, BATCH_ROWS if way == CAREFUL else 1))
        line = self._run(loop.answer_rows, rows, False) | compare(loop.answer_rows, every)
        return [{"name": name} | line], [], ""

    def _draw(self, kind: str) -> Rows:
        longest = self._load.shape.longest
        mean = longest if kind == "constant" else (longest + 1) / 2
        count = max(COMPARED, round(self._load.tokens / mean / COMPARED) * COMPARED)
        return draw_rows(self._load.shape, count, kind)

    def _run(self, answer: Callable[[Rows], np.ndarray], rows: Rows, ours: bool) -> dict[str, Any]:
        """Answer rows, some of them once to warm up, then all of them for the figures."""
        shape, count, tokens = self._load.shape, len(rows.lengths), int(rows.lengths.sum())
        answer(rows.select(rows.choose(max(BATCH_ROWS, count // 8))))
        if self._cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        # Answers are on the CPU when a way returns, so nothing is left to wait for.
        seconds = timed(lambda: answer(rows))
        memory = torch.cuda.max_memory_allocated(self._device) if self._cuda else None
        rate = shape.count_operations(tokens) / seconds
        trimmed = shape.count_operations(tokens, count) / seconds
        return {
            "rate": tokens / seconds,
            "tflops": rate / 1e12,
            "share": rate / max(self._rates),
            "trimmed": trimmed / max(self._rates) if ours else None,
            "memory": memory and memory / 2**30,
            "million": MILLION / count * seconds,
            "rows": count,
        }

    def _tune(self, way: str, kind: str) -> tuple[Ours, dict[str, Any]]:
        """Find the batches as stage one does for a whole run, and compile where that is meant."""
        model_teacher = self._hold(
            way, lambda: Teacher(self._make_model(), self._tokenizer, self._task)
        )
        if kind not in self._tuned:
            few = draw_lengths(kind, self._load.shape.longest, 1000)
            lengths = few.repeat(max(1, self._load.whole // 1000))
            start = time.perf_counter()
            # Layers that another kind of lengths had compiled are so already, for any lengths.
            compiling = "on" if way == COMPILED and not self._tuned else "off"
            ours = Ours.tune(model_teacher, lengths, compiling)
            line = {"batch": ours.batch_positions, "tuning": time.perf_counter() - start}
            line["compiled"] = "compiled" if way == COMPILED else "eager"
            self._tuned[kind] = ours, line
        return self._tuned[kind]

    def _profile(self, ours: Ours, rows: Rows) -> Found:
        """Tell the kernels that take most of the device's time."""
        rows = rows.select(rows.choose(max(BATCH_ROWS, len(rows.lengths) // 8)))
        ours.answer(rows)
        activity, device, time_of = ProfilerActivity.CPU, DeviceType.CPU, "self_cpu_time_total"
        if self._cuda:
            activity, device, time_of = (
                ProfilerActivity.CUDA,
                DeviceType.CUDA,
                "self_device_time_total",
            )
        with profile(activities=[activity]) as prof:
            wall = timed(lambda: ours.answer(rows))
        found = {
            event.key: getattr(event, time_of) / 1e6
            for event in prof.key_averages()
            if event.device_type == device and not getattr(event, "is_user_annotation", False)
        }
        whole = sum(found.values())
        if not whole:
            raise RuntimeError("torch's profiler saw no kernel of the device")
        largest = sorted(found.items(), key=lambda item: -item[1])[:TOP]
        notes = [
            f"{KERNELS}: {spent / whole:.1%} ({1e3 * spent:.1f} ms) `{key[:110]}`"
            for key, spent in largest
        ]
        first = f"{KERNELS}: {whole:.2f} s of kernels in {wall:.2f} s under the profiler, of which"
        line = {"name": KERNELS, "rows": len(rows.lengths), "batch": ours.batch_positions}
        return [line], [f"{first} the {len(largest)} largest are", *notes], ""

    def _hold(self, way: str, make: Callable[[], Any]) -> Any:
        """Have one way in memory, the last one being given up for it."""
        if self._way != way:
            self._held, self._tuned = None, {}
            gc.collect()
            if self._cuda:
                torch.cuda.empty_cache()
            self._held, self._way = make(), way
        return self._held

    def _make_model(self) -> Any:
        return make_model(self._load.shape, self._device, torch.bfloat16)


def compare(answer: Callable[[Rows], np.ndarray], rows: Rows) -> dict[str, Any]:
    """Return answers to a few rows, which are the same ones for all ways."""
    answers = answer(rows.select(rows.choose(COMPARED)))[:, 0]
    return {"answers": [round(float(each), 6) for each in answers]}


def measure_peak(side: int, device: str) -> list[float]:
    """Return the operations a second of products of large square matrices, round by round."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize(a.device)

    multiply()
    return [PRODUCTS * 2.0 * side**3 / timed(multiply) for _ in range(ROUNDS)]
