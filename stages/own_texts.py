"""Texts that the teacher wrote itself: what a student is measured on where there is no real one.

They are made when a cache is created, from seeds that no row of it has, and kept in it with the
teacher's answers.  No row depends on them, so they are no part of a cache's identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cache.directory import Cache
from cache.philox import mix_seeds
from stages.caches import OWN_TEXTS
from stages.errors import ModelError
from stages.generation import Generation, write_texts
from stages.intervals import Share, count_share
from stages.teacher import Teacher, Watch

ATTACHMENT = "own-texts.safetensors"
FIRST_SEED = 2**41
"""Index of the first seed, beyond those of all rows and of the contexts of `unigram`."""

BATCH_POSITIONS = 4096
"""Always the same, so that texts that were lost come out as they were."""

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class OwnTexts:
    """Texts with the teacher's answers.

    Attributes:
        tokens: Token ids padded with -1, shape (N, T), int32.
        lengths: Pieces of each, shape (N,), int32.
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
        theirs, hits = self.logits.argmax(axis=1), 0
        for length in np.unique(self.lengths):
            alike = np.flatnonzero(self.lengths == length)
            for begin in range(0, len(alike), ROWS_AT_ONCE):
                rows = alike[begin : begin + ROWS_AT_ONCE]
                ours = answer(self.tokens[rows, :length].astype(np.int64)).argmax(axis=1)
                hits += int((ours == theirs[rows]).sum())
        return count_share(hits, len(theirs))


def make_own_texts(teacher: Teacher, run_seed: int, rows: int, watch: Watch) -> OwnTexts:
    """Have the teacher write texts and answer them.

    Args:
        teacher: The teacher.
        run_seed: The cache's seed.
        rows: Texts to write, at least 1.
        watch: Told about texts that are written, and asked about a stop.

    Raises:
        ModelError: The model cannot continue its prompt.
    """
    seeds = mix_seeds(run_seed, FIRST_SEED, rows)
    longest = teacher.task.max_length
    tokens = write_texts(teacher, seeds, Generation(), longest, watch)
    lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
    logits = teacher.answer_rows(
        lengths,
        lambda part, length: teacher.look_up(tokens[part, :length]),
        BATCH_POSITIONS,
        Watch(lambda rows: watch.advance(0), watch.warn),
    )
    return OwnTexts(tokens, lengths, logits)


def read_own_texts(cache: Cache) -> OwnTexts | None:
    """Read the texts of a cache; None where it has none.

    Raises:
        DamageError: They were changed since they were written.
        ModelError: The attachment holds other arrays than texts have.
    """
    from safetensors.numpy import load

    if ATTACHMENT not in cache.manifest.attachments:
        return None
    try:
        found = OwnTexts(**load(cache.read_attachment(ATTACHMENT)))
    except TypeError as error:
        raise ModelError(f"{cache.place}: {ATTACHMENT} holds other things than texts") from error
    return found


def describe_difference(cache: Cache, asked: int) -> str | None:
    """Say that a cache was created with another number of texts than is asked for now.

    Args:
        cache: The cache; its texts are as they were made, whatever is asked for later.
        asked: Texts that are asked for.

    Returns:
        A line, or None where the number is the same or not known.
    """
    kept = cache.manifest.notes.get(
        OWN_TEXTS, None if ATTACHMENT in cache.manifest.attachments else 0
    )
    if kept is None or kept == asked:
        return None
    return (
        f"own texts: {kept or 'none'}, as this cache was created with, instead of {asked:,}; only "
        "a new cache gets others"
    )


def describe_agreement(share: Share, largest_class: float | None) -> str:
    """Say what the agreement on own texts is worth.

    Args:
        share: The agreement.
        largest_class: What one answer to all texts would reach; None where that is not known.
    """
    beside = (
        "" if largest_class is None else f", where one answer to all would in {largest_class:.1%}"
    )
    return (
        f"own texts: on {share.rows:,} texts that the teacher wrote itself the student agrees in "
        f"{share}{beside}: the estimate for real texts where there are none"
    )


@torch.no_grad()
def measure_student(student: torch.nn.Module, table: torch.Tensor, own: OwnTexts) -> Share:
    """Count how often a student in memory answers as the teacher did.

    Args:
        student: From embeddings to class logits, on the table's device.
        table: The language model's embeddings, shape (V, d_T).
        own: The texts.
    """
    training = student.training
    student.eval()
    try:
        return own.measure(
            lambda ids: student(table[torch.from_numpy(ids).to(table.device)]).float().cpu().numpy()
        )
    finally:
        student.train(training)
