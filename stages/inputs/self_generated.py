"""Texts that the teacher wrote itself: what a student is measured on where there is no real one.

They are made when a cache is created, from seeds that no row of it has, and kept in it with the
teacher's answers.  No row depends on them, so they are no part of a cache's identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.metrics import Share, count_share

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class SelfGenerated:
    """Texts with the teacher's answers.

    Attributes:
        tokens: Token ids padded with -1, shape (N, T), int32.
        lengths: Tokens of each, shape (N,), int32.
        logits: The teacher's class logits, shape (N, K), float32.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    logits: NDArray[np.float32]

    @property
    def largest_class(self) -> float:
        """Share of the teacher's most frequent answer: what one answer to all texts would reach."""
        counts = np.bincount(self.logits.argmax(axis=1), minlength=self.logits.shape[1])
        return float(counts.max() / counts.sum())

    def to_bytes(self) -> bytes:
        """Return the contents of the attachment."""
        from safetensors.numpy import save

        data: bytes = save({name: np.ascontiguousarray(v) for name, v in vars(self).items()})
        return data

    def measure(self, answer: Callable[[NDArray[np.int64]], NDArray[np.floating]]) -> Share:
        """Count how often someone answers as the teacher did.

        Args:
            answer: Takes token ids of rows of one length, shape (B, T), and returns class scores,
                shape (B, K).
        """
        expected, hits = self.logits.argmax(axis=1), 0
        for length in np.unique(self.lengths):
            alike = np.flatnonzero(self.lengths == length)
            for begin in range(0, len(alike), ROWS_AT_ONCE):
                rows = alike[begin : begin + ROWS_AT_ONCE]
                found = answer(self.tokens[rows, :length].astype(np.int64)).argmax(axis=1)
                hits += int((found == expected[rows]).sum())
        return count_share(hits, len(expected))


def describe_agreement(share: Share, largest_class: float | None) -> str:
    """Say what the agreement on self-generated texts is worth.

    Args:
        share: The agreement.
        largest_class: What one answer to all texts would reach; None where that is not known.
    """
    known = largest_class is not None
    baseline = f", where one answer to all would in {largest_class:.1%}" if known else ""
    return (
        f"self-generated texts: on {share.rows:,} texts that the teacher wrote itself the student "
        f"agrees in {share}{baseline}: the estimate for real texts where there are none"
    )
