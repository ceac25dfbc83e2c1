"""Rank correlation: whether one figure puts things in the same order as another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def rank(values: Sequence[float]) -> np.ndarray:
    """Return the ranks of values from 1, equal ones sharing the mean of theirs, shape (N,)."""
    found = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(found, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def correlate_ranks(left: Sequence[float], right: Sequence[float]) -> float:
    """Compute Spearman's rank correlation.

    Args:
        left: Values, shape (N,).
        right: Values of the same things, shape (N,).

    Returns:
        A number in [-1, 1]; NaN where all values of one side are equal, or there are fewer than
        two.
    """
    if len(left) < 2:
        return math.nan
    a, b = rank(left), rank(right)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / size)) if size else math.nan
