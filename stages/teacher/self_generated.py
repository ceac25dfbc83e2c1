"""Texts that the teacher wrote itself: what a student is measured on where there is no real one.

They are made when a cache is created, from seeds that no row of it has, and kept in it with the
teacher's answers.  No row depends on them, so they are no part of a cache's identity.
"""

from __future__ import annotations

import numpy as np

from cache.draw import mix_seeds
from stages.inputs import Generation, SelfGenerated
from stages.teacher.generation import write_texts
from stages.teacher.teacher import Callbacks, Teacher

FIRST_SEED = 2**41
"""Index of the first seed, beyond those of all rows and of the contexts of `unigram`."""

BATCH_POSITIONS = 4096
"""Always the same, so that texts that were lost come out as they were."""


def make_self_generated(
    teacher: Teacher, run_seed: int, rows: int, callbacks: Callbacks
) -> SelfGenerated:
    """Have the teacher write texts and answer them.

    Args:
        teacher: The teacher.
        run_seed: The cache's seed.
        rows: Texts to write, at least 1.
        callbacks: Told about texts that are written, and asked about a stop.

    Raises:
        ModelError: The model cannot continue its prompt.
    """
    seeds = mix_seeds(run_seed, FIRST_SEED, rows)
    longest = teacher.task.max_length
    tokens = write_texts(teacher, seeds, Generation(), longest, callbacks)
    lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
    logits = teacher.answer_rows(
        lengths,
        lambda part, length: teacher.look_up(tokens[part, :length]),
        BATCH_POSITIONS,
        Callbacks(lambda rows: callbacks.advance(0), callbacks.warn),
    )
    return SelfGenerated(tokens, lengths, logits)
