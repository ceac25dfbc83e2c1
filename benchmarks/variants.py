"""What number formats and the compiler change: two sections of the teacher's benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparison import Effort, Spread, make_ours
from benchmarks.subjects import draw_rows, make_model, make_task, make_tokenizer
from benchmarks.yardsticks import Ours, timed
from stages.devices import DTYPES
from stages.errors import SettingError
from stages.lm import check_quantisation, load_language_model
from stages.teacher import Teacher, compile_layers, find_compiling_problem

PRECISION = """\
{rows} rows behind {tokens} tokens, on {device}, in batches of {positions:,} positions; differences
are of class probabilities from those in float32, whose standard deviation over the rows is
{deviation:.3f}.  Random weights: a trained model's answers may lie nearer or further apart.
"""
COMPILING = """\
{rows} rows behind {tokens} tokens, on {device}; two teachers of the same weights take turns, one of
them with compiled layers, after {seconds:.0f} s of compiling.
"""


def measure_precision(effort: Effort, folder: Path, device: str) -> Iterator[str]:
    """Yield the table of number formats: what they change, and rows a second."""
    shape, tokens = effort.shape, effort.shape.prompts[0]
    tokenizer, task = make_tokenizer(), make_task(tokens, shape.longest)
    yield "\n## Number formats\n"
    make_model(shape).save_pretrained(folder)
    every = draw_rows(shape, effort.rows)
    rows = every.select(every.choose(effort.variants))
    formats = [(dtype, "none") for dtype in DTYPES]
    for quantise in ("int8", "fp8"):
        dtype = "float32" if device == "cpu" else "bfloat16"
        try:
            check_quantisation(quantise, device, dtype)
        except SettingError as error:
            yield f"Not measured: {error}.\n"
        else:
            formats.append((dtype, quantise))
    plain: np.ndarray | None = None
    positions = 0
    for dtype, quantise in formats:
        model = load_language_model(folder, device, dtype, quantise)
        ours = Ours(Teacher(model, tokenizer, task), positions)
        if plain is None:
            ours = Ours.tune(ours.teacher, rows.lengths)
            positions, plain = ours.batch_positions, ours.answer(rows)
            yield PRECISION.format(
                rows=len(rows.lengths),
                tokens=tokens,
                device=device,
                positions=positions,
                deviation=plain[:, 0].std(),
            )
            yield "| weights | computing | largest difference | mean difference | rows/s |"
            yield "|---|---|---|---|---|"
        found = ours.answer(rows)
        seconds = timed(lambda o=ours: o.answer(rows))  # type: ignore[misc]
        logits = ours.teacher.compute_class_logits(ours.teacher.look_up(rows.tokens[:1, :1]))
        if logits.dtype != torch.float32:
            raise RuntimeError(f"label logits are {logits.dtype} in {dtype}, must be float32")
        apart = np.abs(found - plain)
        weights = dtype if quantise == "none" else quantise
        differences = (f"{apart.max():.1e}", f"{apart.mean():.1e}")
        cells = (weights, dtype, *differences, f"{len(rows.lengths) / seconds:.1f}")
        yield f"| {' | '.join(cells)} |"
    yield "\nLabel logits and their softmax were float32 in every one of them."


def measure_compiling(effort: Effort, device: str) -> Iterator[str]:
    """Yield the table of compiled layers against layers as they are."""
    shape, tokens = effort.shape, effort.shape.prompts[0]
    yield "\n## Compiling\n"
    rows = draw_rows(shape, effort.rows)
    rows = rows.select(rows.choose(effort.profiled))
    plain = make_ours(shape, tokens, rows, device)
    if problem := find_compiling_problem(plain.teacher):
        yield f"Not measured: {problem}."
        return
    task = make_task(tokens, shape.longest)
    teacher = Teacher(make_model(shape, device), make_tokenizer(), task)
    compiled = Ours(teacher, plain.batch_positions)
    compile_layers(teacher)
    few = rows.select(rows.choose(len(rows.lengths) // 4))
    seconds = timed(lambda: (compiled.answer(few), compiled.answer(rows)))
    plain.answer(rows)
    ratios, rates = [], []
    for _ in range(effort.rounds):
        slow = timed(lambda: plain.answer(rows))
        fast = timed(lambda: compiled.answer(rows))
        ratios.append(slow / fast)
        rates.append((len(rows.lengths) / slow, len(rows.lengths) / fast))
    apart = np.abs(compiled.answer(rows) - plain.answer(rows)).max()
    yield COMPILING.format(rows=len(rows.lengths), tokens=tokens, device=device, seconds=seconds)
    yield "| as it is, rows/s | compiled, rows/s | ratio | largest difference of a probability |"
    yield "|---|---|---|---|"
    speeds = (Spread.of([pair[0] for pair in rates]), Spread.of([pair[1] for pair in rates]))
    yield f"| {speeds[0]} | {speeds[1]} | {Spread.of(ratios)} | {apart:.1e} |"
