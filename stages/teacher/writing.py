"""Rows of which the language model writes some or all: their tokens, before they are answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cache.draw import Sampler, TokenSampler
from stages.errors import SettingError
from stages.inputs import OWN, Inputs
from stages.teacher.generation import write_texts
from stages.teacher.teacher import Callbacks, Teacher


def write_inputs(
    inputs: Inputs, parts: Mapping[str, Sampler], teacher: Teacher, callbacks: Callbacks
) -> Inputs:
    """Write and draw the tokens of rows, those of like length side by side.

    Args:
        inputs: Rows whose tokens are to be written.
        parts: The samplers among the mixture's parts, by name.
        teacher: Who writes.
        callbacks: Asked about a stop, and told about trouble.

    Returns:
        The rows by their lengths, with their tokens.

    Raises:
        ModelError: The model cannot continue its prompt.
        SettingError: A part draws no token ids.
    """
    writing = inputs.writing
    if writing is None:
        return inputs
    tokens = np.full((len(inputs.seeds), writing.longest), -1, dtype=np.int32)
    chosen = writing.mixture.choose_parts(inputs.seeds)
    silent = Callbacks(lambda texts: callbacks.advance(0), callbacks.warn)
    for number, name in enumerate(writing.mixture.names):
        rows = np.flatnonzero(chosen == number)
        seeds = inputs.seeds[rows]
        if name in OWN:
            how = replace(writing.how, labelled=name == "self-labelled")
            tokens[rows] = write_texts(
                teacher, seeds, how, writing.longest, silent, writing.shortest
            )
            continue
        sampler = parts[name]
        if not isinstance(sampler, TokenSampler):
            raise SettingError(f"the inputs of the sampler {name} have no token ids to keep")
        drawn = sampler.draw_ids(seeds, writing.longest)
        drawn[np.arange(writing.longest) >= inputs.lengths[rows, None]] = -1
        tokens[rows] = drawn
    lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
    # So that a chunk hardly mixes lengths, and little of what is read again is padding.
    order = np.argsort(lengths, kind="stable")
    return Inputs(inputs.seeds[order], lengths[order], tokens[order], inputs.identity)
