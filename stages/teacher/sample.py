"""A teacher's answers to a sample of a cache's rows, before all of them are computed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from cache.draw import Sampler
from stages.metrics import Projection, ProjectionMeter
from stages.teacher.fill import answer_inputs
from stages.teacher.plan import Preparation
from stages.teacher.teacher import Callbacks, Teacher

SAMPLE_CHUNKS, SAMPLE_ROWS = 64, 8
"""Chunks, each of a length of its own, that a sample is taken of, and rows of each."""


def answer_sample(
    ready: Preparation, parts: Mapping[str, Sampler], teacher: Teacher, batch_positions: int
) -> Projection:
    """Answer a few rows of many lengths.

    Args:
        ready: What the cache is to be.
        parts: What draws its rows, by name.
        teacher: Who answers.
        batch_positions: Most positions in one forward pass.

    Returns:
        The teacher's class balance and spread on them.

    Raises:
        Interrupted: A stop was asked for.
    """
    chunk, rows = ready.manifest.layout.chunk_rows, len(ready.inputs.lengths)
    chunks = -(-rows // chunk)
    begins = np.unique(np.linspace(0, chunks - 1, min(chunks, SAMPLE_CHUNKS)).astype(int)) * chunk
    each = begins[:, None] + np.arange(min(chunk, SAMPLE_ROWS))
    chosen = each[each < rows]
    callbacks = Callbacks(lambda done: ready.reporter.check_stop(), ready.reporter.warn)
    columns = answer_inputs(ready.inputs.select(chosen), parts, teacher, batch_positions, callbacks)
    return measure_spread(columns["probabilities"])


def measure_spread(probabilities: np.ndarray) -> Projection:
    """Return the class balance and spread of answers, shape (N, K)."""
    meter = ProjectionMeter(probabilities.shape[1])
    g = torch.from_numpy(probabilities.copy())
    meter.update(g, g)
    return meter.compute()
