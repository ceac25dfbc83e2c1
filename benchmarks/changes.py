"""Changes to what a model writes, or to how, for kinds of inputs that became no default."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from stages.tasks import Label
from stages.teacher import Teacher, generation

INTERRUPTED = {
    "interrupted": 0.1,
    "interrupted-less": 0.03,
    "interrupted-more": 0.25,
    "interrupted-own": 0.1,
    "interrupted-on": 0.1,
}
"""The share of random tokens in interrupted texts."""


@contextmanager
def interrupt(kind: str, distribution: np.ndarray) -> Iterator[None]:
    """Draw some tokens of written texts from a distribution (V,) of their own."""
    chances, generator = torch.from_numpy(distribution), torch.Generator().manual_seed(6)
    draw = generation.draw_tokens

    def mix(logits: torch.Tensor, *given: Any) -> torch.Tensor:
        found = draw(logits, *given)
        others = chances.multinomial(len(found), True, generator=generator).to(found.device)
        random = torch.rand(len(found), generator=generator).to(found.device)
        return torch.where(random < INTERRUPTED[kind], others, found)

    with mock.patch.object(generation, "draw_tokens", mix):
        yield


def find_ends(teacher: Teacher) -> np.ndarray:
    """Return which tokens a text could end at, shape (at least V,), bool."""
    ends = generation.find_end_ids(teacher.model)
    found = generation.Endings(teacher.tokenizer, ends).can_end
    return np.pad(found, (0, max(0, len(teacher.table) - len(found))))


def change_texts(kind: str, texts: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    """Make other rows of written texts, shape (N, longest); ``others`` are random rows."""
    rng = np.random.default_rng(5)
    rows = [text[text >= 0] for text in texts]
    if kind == "shuffled":
        rows = [rng.permutation(row) for row in rows]
    elif kind == "scattered":
        assert others is not None
        shares = rng.random(len(rows))
        rows = [
            np.where(rng.random(len(row)) < share, other[: len(row)], row)
            for row, share, other in zip(rows, shares, others, strict=True)
        ]
    elif kind == "begun":
        rows = [row[: rng.integers(1, len(row) + 1)] for row in rows]
    else:
        pairs = zip(rows, rng.permutation(len(rows)), strict=True)
        rows = [
            np.concatenate([row[: rng.integers(1, len(row) + 1)], rows[other]])
            for row, other in pairs
        ]
    changed = np.full_like(texts, -1)
    for row, given in zip(rows, changed, strict=True):
        given[: len(row)] = row[: len(given)]
    return changed


def pair_labels(teacher: Teacher) -> Teacher:
    """Return the teacher with a label for every two."""
    task = teacher.task
    pairs = tuple(
        Label(f"{a.spoken} and {b.spoken}", (f"{a.words[0]} {b.words[0]}",))
        for a in task.labels
        for b in task.labels
        if a != b
    )
    other = copy.copy(teacher)
    other.task = replace(task, labels=pairs)
    return other
