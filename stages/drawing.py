"""What draws a cache's inputs: its samplers, with what they need of the language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.directory import Cache
from cache.mixtures import mix_samplers, parse_mixture
from cache.philox import mix_seeds
from cache.samplers import (
    SAMPLERS,
    Sampler,
    VocabularySampler,
    build_sampler,
    quantise_distribution,
)
from stages.inputs import OWN, TABLE, TEXTS, UNIGRAM_CONTEXTS, UNIGRAM_LENGTH, Inputs
from stages.pieces import pack_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.teacher import Teacher

THRESHOLDS = "thresholds.npy"


def make_attachments(
    inputs: Inputs, teacher: Teacher, tokenizer: PreTrainedTokenizerBase
) -> dict[str, bytes]:
    """Collect what a student needs of the language model, so that it needs nothing else of it."""
    from safetensors.torch import save

    files = {TABLE: save({"embedding": teacher.table.cpu().contiguous()})}
    files |= {f"tokenizer-{name}": data for name, data in pack_tokenizer(tokenizer).items()}
    thresholds = compute_thresholds(inputs, teacher)
    if thresholds is not None:
        files[THRESHOLDS] = thresholds.astype("<i8").tobytes()
    return files


def compute_thresholds(inputs: Inputs, teacher: Teacher) -> np.ndarray | None:
    """Compute what `unigram` draws by, shape (V,); None where it draws nothing."""
    if "contexts" not in inputs.identity:
        return None
    # Contexts of uniformly drawn words, under seeds of their own.
    words = VocabularySampler(teacher.table)
    seeds = mix_seeds(inputs.identity["seed"], 2**40, UNIGRAM_CONTEXTS)
    ids = torch.from_numpy(words.draw_ids(seeds, UNIGRAM_LENGTH))
    return quantise_distribution(teacher.average_next_token(ids).numpy())


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
    thresholds = None
    if THRESHOLDS in cache.manifest.attachments:
        thresholds = np.frombuffer(cache.read_attachment(THRESHOLDS), dtype="<i8")
    return build_parts(cache.manifest.inputs["sampler"]["name"], table, thresholds)


def read_sampler(cache: Cache, table: torch.Tensor) -> Sampler | None:
    """Rebuild the sampler that a cache's inputs came from; None where their pieces are kept."""
    if "tokens" in cache.layout.columns:
        return None
    return mix_parts(cache.manifest.inputs["sampler"]["name"], read_parts(cache, table))
