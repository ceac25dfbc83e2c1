"""The model's average next-token distribution, which `unigram` draws by."""

from __future__ import annotations

import numpy as np
import torch

from cache.draw import VocabularySampler, mix_seeds, quantise_distribution
from stages.inputs import UNIGRAM_CONTEXTS, UNIGRAM_LENGTH, Inputs
from stages.teacher.teacher import Teacher


def compute_thresholds(inputs: Inputs, teacher: Teacher) -> np.ndarray | None:
    """Compute what `unigram` draws by, shape (V,); None where it draws nothing."""
    if "contexts" not in inputs.identity:
        return None
    # Contexts of uniformly drawn words, under seeds of their own.
    words = VocabularySampler(teacher.table)
    seeds = mix_seeds(inputs.identity["seed"], 2**40, UNIGRAM_CONTEXTS)
    ids = torch.from_numpy(words.draw_ids(seeds, UNIGRAM_LENGTH))
    return quantise_distribution(teacher.average_next_token(ids).numpy())
