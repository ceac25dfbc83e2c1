"""What the teacher adds to a cache when it is created: what `unigram` draws by, and texts.

Self-generated texts are what a student is measured on where there is no real one.  They are made
from seeds that no row has, and kept with the teacher's answers.  No row depends on them, so they
are no part of a cache's identity.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from cache.draw import VocabularySampler, mix_seeds, quantise_distribution
from stages.errors import ModelError
from stages.inputs import (
    SELF_GENERATED,
    SELF_GENERATED_FILE,
    UNIGRAM_CONTEXTS,
    UNIGRAM_LENGTH,
    Inputs,
    SamplingSettings,
    SelfGenerated,
    pack_attachments,
)
from stages.teacher.generation import write_texts
from stages.teacher.plan import TeacherPlan
from stages.teacher.teacher import Callbacks, Teacher

CONTEXT_SEED, TEXT_SEED = 2**40, 2**41
"""Indices of the first seeds of contexts and of self-generated texts, beyond those of all rows."""

BATCH_POSITIONS = 4096
"""Always the same, so that texts that were lost come out as they were."""


def make_attachments(plan: TeacherPlan, texts: int) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Make all attachments of a cache.

    Args:
        plan: What the cache is of.
        texts: Self-generated texts to write; none where the model cannot write.

    Returns:
        The attachments' contents by name, and notes on them for the manifest.
    """
    began = time.monotonic()
    thresholds = compute_thresholds(plan.inputs, plan.teacher)
    files = pack_attachments(plan.teacher.table, plan.tokenizer, thresholds)
    notes = {"seconds": time.monotonic() - began, SELF_GENERATED: 0}
    if not texts:
        return files, notes
    reporter = plan.reporter
    try:
        with reporter.track("self-generated texts", texts, 0, "text") as show:

            def advance(count: int) -> None:
                show(count)
                reporter.check_stop()

            callbacks = Callbacks(advance, reporter.warn)
            made = make_self_generated(plan.teacher, plan.config.seed, texts, callbacks)
    except ModelError as error:
        reporter.warn(f"students of this cache are measured on no self-generated texts: {error}")
        return files, notes
    return files | {SELF_GENERATED_FILE: made.to_bytes()}, notes | {SELF_GENERATED: texts}


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
    seeds = mix_seeds(run_seed, TEXT_SEED, rows)
    tokens = write_texts(teacher, seeds, SamplingSettings(), teacher.task.max_length, callbacks)
    lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
    logits = teacher.answer_rows(
        lengths,
        lambda part, length: teacher.look_up(tokens[part, :length]),
        BATCH_POSITIONS,
        Callbacks(lambda rows: callbacks.advance(0), callbacks.warn),
    )
    return SelfGenerated(tokens, lengths, logits)


def compute_thresholds(inputs: Inputs, teacher: Teacher) -> np.ndarray | None:
    """Compute what `unigram` draws by, shape (V,); None where it draws nothing."""
    if "contexts" not in inputs.identity:
        return None
    seeds = mix_seeds(inputs.identity["seed"], CONTEXT_SEED, UNIGRAM_CONTEXTS)
    ids = torch.from_numpy(VocabularySampler(teacher.table).draw_ids(seeds, UNIGRAM_LENGTH))
    return quantise_distribution(average_next_token(teacher, ids).numpy())


@torch.inference_mode()
def average_next_token(teacher: Teacher, ids: torch.Tensor) -> torch.Tensor:
    """Average the model's own next-token distribution over contexts behind the prompt.

    Args:
        teacher: The model behind its prompt.
        ids: Token ids of the contexts, shape (B, T).

    Returns:
        Probabilities, shape (V,), float64, on the CPU.

    Raises:
        ModelError: The model's logits are NaN or infinite.
    """
    with teacher.suspend():
        total = torch.zeros(len(teacher.table), dtype=torch.float64)
        prefix = teacher.look_up(np.array([teacher.prefix_ids]))
        for row in ids:  # one at a time: (T, V) logits are the largest tensor of all
            inputs = torch.cat([prefix, teacher.table[row.to(teacher.device)][None]], dim=1)
            output = teacher.model(inputs_embeds=inputs, use_cache=False)
            logits = output.logits[0, prefix.shape[1] - 1 : -1].float()
            total += logits.softmax(dim=-1).double().mean(dim=0).cpu()[: len(total)]
    if not total.isfinite().all():
        raise ModelError("the model's logits are NaN or infinite: its weights are damaged")
    return total / total.sum()
