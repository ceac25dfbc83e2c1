"""Which of the passes that are right is the fastest: timed on rows of the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import ModelError
from stages.teacher.teacher import Callbacks, Teacher

if TYPE_CHECKING:
    import torch

    from stages.reporter import Reporter

GAIN = 1.05
"""Larger batches, another pass or compiling must be this much faster to be worth it."""
SECONDS, SAMPLE_SECONDS, MOST_RATE = 1.5, 0.4, 2**18
"""How long passes are timed, and about how long a time; positions a second at most."""
SEEN, LENGTHS = 2**15, 8
"""Rows of which some are timed, as many as a shard has, and how many lengths these have."""


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
    callbacks = Callbacks(lambda done: reporter.check_stop(), reporter.say)
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for way in rates:
            teacher.use_pass(way)
            start = time.perf_counter()
            try:
                teacher.answer_rows(
                    rows, lambda part, n: look_up_any(teacher, len(part), n), positions, callbacks
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
