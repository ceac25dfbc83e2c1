"""A teacher as large as Llama-2-7b on one device: tokens a second against the device's peak."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.comparison import OBVIOUS, OURS
from benchmarks.subjects import Rows, Shape, draw_rows, make_model, make_task, make_tokenizer
from benchmarks.yardsticks import Loop, Ours, timed
from cache.draw import LengthRule
from stages.tasks import build_verbaliser, frame_task
from stages.teacher import Teacher

MILLION = 1_000_000
GIB = 2**30

WORDS = """\
{model}, random weights made on {device} in {dtype}, behind a prompt of {tokens} tokens.  Tokens are
the rows' own tokens: neither the prompt nor padding counts.  The peak is {peak:,.3g} TFLOP/s,
measured in the same run on products of {side:,} × {side:,} matrices in {dtype}.  Of it: 2 ×
parameters × tokens, embeddings and output layer not counted, attention's own products neither; in
the last column less what the last layer leaves out for all positions but a row's last.  Memory is
the device's, weights included.  Batches were found as for a run of {whole:,} rows.
"""


@dataclass(frozen=True)
class Load:
    """What a device is measured with.

    Attributes:
        shape: The model.
        rows: Rows the teacher answers, for each kind of lengths.
        obvious: Rows of them the obvious loop answers.
        side: Of the matrices whose product gives the peak.
        compiling: ``auto``, ``on`` or ``off``.
        whole: Rows of the run that batches are to suit, and compiling is to pay in.
    """

    shape: Shape
    rows: int
    obvious: int
    side: int
    compiling: str = "auto"
    whole: int = MILLION


def measure_accelerator(load: Load, device: str) -> Iterator[str]:
    """Yield the table of tokens a second on one device.

    Args:
        load: What is measured.
        device: The device; not necessarily an accelerator, so that this can be tried without.
    """
    cuda = torch.device(device).type == "cuda"
    dtype = torch.bfloat16
    yield "\n## A large model on one device\n"
    name = torch.cuda.get_device_name(device) if cuda else device
    peak = measure_peak(load.side, device, dtype)
    yield WORDS.format(
        model=load.shape.words,
        device=name,
        dtype=str(dtype).removeprefix("torch."),
        tokens=load.shape.prompts[0],
        peak=peak / 1e12,
        side=load.side,
        whole=load.whole,
    )
    heads = (
        *("lengths", "", "tokens/s", "× the obvious loop", "of the peak", "last layer less"),
        *("peak memory, GiB", "s for 1,000,000 rows", "rows measured"),
    )
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    every = {kind: draw_rows(load.shape, load.rows, kind) for kind in ("log-uniform", "fixed")}
    some = {kind: rows.select(rows.choose(load.obvious)) for kind, rows in every.items()}
    found: dict[tuple[str, str], Figures] = {}
    answers: dict[str, np.ndarray] = {}
    # One model after the other, so that each has the memory for itself.
    loop = make_loop(load.shape, device, dtype)
    for kind, rows in some.items():
        found[kind, OBVIOUS], answers[kind] = run_way(loop.answer, rows, device)
    del loop
    free(cuda)
    notes, apart = [], []
    for kind, rows in every.items():
        # A teacher for each, since what one was tuned for may have been compiled into it.
        ours = tune_teacher(load, kind, device, dtype)
        way = ours.teacher.forward_pass.words
        notes += [f"- {kind}: {note}" for note in (way, *ours.teacher.fallbacks, *ours.notes)]
        found[kind, OURS], _ = run_way(ours.answer, rows, device)
        apart.append(float(np.abs(ours.answer(some[kind]) - answers[kind]).max()))
        del ours
        free(cuda)
    for kind in every:
        for way in (OURS, OBVIOUS):
            yield found[kind, way].to_line(kind, way, load.shape, peak, found[kind, OBVIOUS])
    yield (
        f"\nTo reach: 0.65 of the peak.  Largest difference of a probability from the obvious "
        f"loop's: {max(apart):.1e}.\n"
    )
    yield from notes


@dataclass(frozen=True)
class Figures:
    """What answering some rows took.

    Attributes:
        rows: Their number.
        tokens: Their tokens.
        seconds: Time.
        memory: Most bytes of the device that were allocated; None where it does not count them.
    """

    rows: int
    tokens: int
    seconds: float
    memory: int | None

    def to_line(self, kind: str, way: str, shape: Shape, peak: float, base: Figures) -> str:
        """Return the line of the table."""
        rate = self.tokens / self.seconds
        trimmed = shape.count_operations(self.tokens, self.rows) if way == OURS else None
        cells = (
            f"{kind}, up to {shape.longest}" if kind != "fixed" else f"all {shape.longest}",
            way,
            f"{rate:,.0f}",
            f"{rate / (base.tokens / base.seconds):.2f}",
            f"{shape.count_operations(self.tokens) / self.seconds / peak:.3f}",
            "" if trimmed is None else f"{trimmed / self.seconds / peak:.3f}",
            "not counted" if self.memory is None else f"{self.memory / GIB:.1f}",
            f"{MILLION / self.rows * self.seconds:,.0f}",
            f"{self.rows:,}",
        )
        return f"| {' | '.join(cells)} |"


def run_way(
    answer: Callable[[Rows], np.ndarray], rows: Rows, device: str
) -> tuple[Figures, np.ndarray]:
    """Answer rows, once to warm up on some of them, then all of them for the figures."""
    cuda = torch.device(device).type == "cuda"
    answer(rows.select(rows.choose(max(32, len(rows.lengths) // 8))))
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    found: list[np.ndarray] = []
    # Answers are on the CPU when a way returns, so nothing is left to wait for.
    seconds = timed(lambda: found.append(answer(rows)))
    memory = torch.cuda.max_memory_allocated(device) if cuda else None
    return Figures(len(rows.lengths), int(rows.lengths.sum()), seconds, memory), found[0]


def measure_peak(side: int, device: str, dtype: torch.dtype) -> float:
    """Return the operations a second of products of large square matrices: the best of several."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(10):
            torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize(a.device)

    multiply()
    return 10 * 2.0 * side**3 / min(timed(multiply) for _ in range(5))


def make_loop(shape: Shape, device: str, dtype: torch.dtype) -> Loop:
    """Make the model and the obvious loop around it."""
    tokenizer, task = make_tokenizer(), make_task(shape.prompts[0], shape.longest)
    prompt = frame_task(task, tokenizer).prefix_ids
    model = make_model(shape, device, dtype)
    return Loop(model, prompt, build_verbaliser(task, tokenizer), careful=False)


def tune_teacher(load: Load, kind: str, device: str, dtype: torch.dtype) -> Ours:
    """Make the same model and the teacher around it, tuned as for a whole run."""
    shape = load.shape
    task = make_task(shape.prompts[0], shape.longest)
    teacher = Teacher(make_model(shape, device, dtype), make_tokenizer(), task)
    rule = LengthRule(kind, shape.longest if kind == "fixed" else 1, shape.longest)
    lengths = rule.draw_lengths(0, 0, 1000).repeat(load.whole // 1000)
    return Ours.tune(teacher, lengths, load.compiling)


def free(cuda: bool) -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
