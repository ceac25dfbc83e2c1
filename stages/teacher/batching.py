"""Which rows go through the model together: as many as a budget of positions allows, no padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """Rows for one forward pass.

    Attributes:
        groups: For each length, in rising order, the rows of that length, shape (B,), and it.
    """

    groups: tuple[tuple[np.ndarray, int], ...]

    @property
    def rows(self) -> np.ndarray:
        """The rows in the order in which they are answered."""
        return np.concatenate([rows for rows, _ in self.groups])

    def halve(self) -> tuple[Batch, Batch]:
        """Split the rows in two, for a device that could not hold them all.

        Raises:
            ValueError: It is a single row.
        """
        middle = len(self.rows) // 2
        if not middle:
            raise ValueError("a batch of one row cannot be split")
        front: list[tuple[np.ndarray, int]] = []
        back: list[tuple[np.ndarray, int]] = []
        for rows, length in self.groups:
            left = max(0, min(middle, len(rows)))
            front += [(rows[:left], length)] if left else []
            back += [(rows[left:], length)] if left < len(rows) else []
            middle -= left
        return Batch(tuple(front)), Batch(tuple(back))


def plan_batches(lengths: np.ndarray, around: int, budget: int, mixed: bool) -> Iterator[Batch]:
    """Fill one batch after another with the shortest rows that are left.

    Args:
        lengths: Tokens of each row, shape (N,).
        around: Positions that a row takes beside its own tokens.
        budget: Most positions in a batch, unless a single row has more.
        mixed: Whether rows of several lengths may share a batch.

    Yields:
        Batches that together hold every row once.  They depend on the arguments alone.
    """
    groups: list[tuple[np.ndarray, int]] = []
    room = budget
    for length in map(int, np.unique(lengths)):
        alike = np.flatnonzero(lengths == length)
        cost = max(1, length + around)
        while len(alike):
            take = min(len(alike), max(0, room) // cost)
            if not take and not groups:
                take = 1
            if take:
                groups.append((alike[:take], length))
                alike, room = alike[take:], room - take * cost
            if len(alike) or not mixed:
                yield Batch(tuple(groups))
                groups, room = [], budget
    if groups:
        yield Batch(tuple(groups))
