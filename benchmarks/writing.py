"""Texts that a model writes, against ``transformers.generate``: tokens of texts a second.

Both draw from the whole distribution, behind the same prompt, and end a text at the model's end or
at a blank line; what is written behind it counts for nobody.  `generate` has the best of the
batches tried, and stops where the last of a batch is at its end.  They take turns, in one run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Spread, format_head, format_row, rotate
from cache.draw import mix_seeds
from stages import lm
from stages.inputs import SamplingSettings
from stages.reporter import SilentReporter
from stages.tasks import load_task
from stages.teacher import (
    BLANK_LINE,
    MOST_ROWS,
    Endings,
    find_end_ids,
    make_teacher,
    write_texts,
)

TASK = "ag_news"
OURS, GENERATE = "ours", "generate"
HEADS = ("model", "texts", "ratio", "to reach", "ours, tokens/s", "mean tokens")
HEADS += ("side by side", "generate, tokens/s", "mean tokens", "its batch")
TRIED_LENGTH = 16


@dataclass(frozen=True)
class Writing:
    """How much is written."""

    texts: int = 512
    longest: int = 128  # tokens
    rounds: int = 3
    batches: tuple[int, ...] = (32, 64, 128, 256, 512)  # that `generate` is tried with


LARGE = Writing(256, 96, 2, (64, 128, 256))
"""For models that write some hundred tokens a second."""
QUICK = Writing(24, 12, 2, (8, 24))


def measure_writing(effort: Writing, folder: Path | None, large: Writing) -> Iterator[str]:
    """Yield the table of tokens a second, for the mini model and for one of a directory."""
    mini = f"{effort.rounds} rounds of {effort.longest} tokens at most for mini"
    more = f"{large.rounds} of {large.longest} for a larger model"
    yield f"{__doc__}\nThe prompt is that of {TASK}; float32, on the CPU; {mini}, {more}.\n"
    yield format_head(HEADS)
    yield format_row(_compare("mini", "mini", effort))
    if folder is not None:
        yield format_row(_compare(str(folder), folder.name, large))


def _compare(model: str, name: str, effort: Writing) -> tuple[object, ...]:
    lm.keep_freed_memory("cpu")
    folder = lm.resolve_model(model)
    tokenizer = lm.load_language_tokenizer(folder)
    task = replace(load_task(TASK), max_length=TRIED_LENGTH)
    if name == "mini":  # which was trained behind the tasks' own prompts
        task = replace(task, write=None, write_labelled=None)
    loaded = lm.load_language_model(folder, "cpu", "float32")
    teacher = make_teacher(loaded, tokenizer, task, False, None, SilentReporter())
    prompt = tokenizer(task.write or task.prompt, return_tensors="pt")["input_ids"]
    seeds = mix_seeds(0, 0, effort.texts)
    endings = Endings(tokenizer, find_end_ids(loaded))
    # Whether a token has a blank line in it, ends with a line break, and begins with one.
    marks = [
        torch.tensor([bool(re.search(pattern, piece)) for piece in endings.pieces])
        for pattern in (BLANK_LINE, r"\n[ \t]*$", r"^[ \t]*\n")
    ]
    no_start = np.flatnonzero(endings.cannot_begin).tolist()

    def write() -> np.ndarray:
        tokens = write_texts(teacher, seeds, SamplingSettings(), effort.longest, lambda _: None)
        return (tokens >= 0).sum(axis=1)

    def generate(batch: int, texts: int = effort.texts) -> np.ndarray:
        with teacher.suspend(), torch.inference_mode():
            parts = [
                _generate(loaded, prompt.expand(min(batch, texts - k), -1), effort, marks, no_start)
                for k in range(0, texts, batch)
            ]
        return np.concatenate(parts)

    tried = {batch: _rate(lambda b=batch: generate(b, b)) for batch in effort.batches}
    best = max(tried, key=lambda batch: tried[batch][0])
    ways = {OURS: write, GENERATE: lambda: generate(best)}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(effort.rounds):
        for way in rotate(list(ways), turn):
            found[way].append(_rate(ways[way]))
    rates = {way: [rate for rate, _ in turns] for way, turns in found.items()}
    ratio = Spread.of([a / b for a, b in zip(rates[OURS], rates[GENERATE], strict=True)])
    means = {way: f"{np.mean([mean for _, mean in turns]):.0f}" for way, turns in found.items()}
    ours = ratio, "≥ 1.5", Spread.of(rates[OURS]), means[OURS], min(MOST_ROWS["cpu"], effort.texts)
    return (name, effort.texts, *ours, Spread.of(rates[GENERATE]), means[GENERATE], best)


def _rate(write: Callable[[], np.ndarray]) -> tuple[float, float]:
    """Return tokens a second, and a text."""
    began = time.perf_counter()
    lengths = write()
    return float(lengths.sum()) / (time.perf_counter() - began), float(lengths.mean())


def _generate(
    model: Any,
    prompts: torch.Tensor,
    effort: Writing,
    marks: list[torch.Tensor],
    no_start: list[int],
) -> np.ndarray:
    """Return the tokens of each text that transformers writes."""
    ends = torch.tensor(find_end_ids(model))
    holds, breaks, opens = marks

    def has_blank_line(ids: torch.Tensor, *_: Any) -> torch.Tensor:
        return holds[ids[:, -1]] | (breaks[ids[:, -2]] & opens[ids[:, -1]])

    found = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=effort.longest,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        eos_token_id=ends.tolist(),
        pad_token_id=ends.tolist()[0],
        begin_suppress_tokens=no_start,
        stopping_criteria=[has_blank_line],
    )[:, prompts.shape[1] - 1 :]
    over = torch.isin(found, ends) | holds[found]
    over[:, 1:] |= breaks[found[:, :-1]] & opens[found[:, 1:]]
    over = over[:, 1:]
    return torch.where(over.any(dim=1), over.int().argmax(dim=1), over.shape[1]).numpy()
