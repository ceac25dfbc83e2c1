"""What draws a cache's inputs: its samplers, with what they need of the language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.directory import Cache
from cache.draw import (
    SAMPLERS,
    Sampler,
    build_sampler,
    mix_samplers,
    parse_mixture,
)
from stages.inputs.attachments import read_thresholds
from stages.inputs.preparation import OWN, TEXTS

if TYPE_CHECKING:
    pass


def build_parts(
    name: str, table: torch.Tensor, thresholds: np.ndarray | None
) -> dict[str, Sampler]:
    """Build those samplers of a mixture that draw rows from seeds, by name; none of texts."""
    if name == TEXTS:
        return {}
    return {
        part: build_sampler(part, table=table, thresholds=thresholds)
        for part in parse_mixture(name, (*SAMPLERS, *OWN)).names
        if part not in OWN
    }


def mix_parts(name: str, parts: Mapping[str, Sampler]) -> Sampler:
    """Return the sampler of a mixture of such parts."""
    mixture = parse_mixture(name, SAMPLERS)
    return mix_samplers(mixture, [parts[part] for part in mixture.names])


def read_parts(cache: Cache, table: torch.Tensor) -> dict[str, Sampler]:
    """Rebuild a cache's samplers that draw rows from seeds, by name."""
    return build_parts(cache.manifest.inputs["sampler"]["name"], table, read_thresholds(cache))


def read_sampler(cache: Cache, table: torch.Tensor) -> Sampler | None:
    """Rebuild the sampler that a cache's inputs came from; None where their tokens are kept."""
    if "tokens" in cache.layout.columns:
        return None
    return mix_parts(cache.manifest.inputs["sampler"]["name"], read_parts(cache, table))
