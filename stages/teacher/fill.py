"""Filling a cache: its attachments when it is created, then one free shard after another.

Self-generated texts, which students are measured on where there is no real one, come from seeds
that no row has.  No row depends on them, so they are no part of a cache's identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cache.directory import Cache
from cache.draw import (
    Purpose,
    Sampler,
    TokenSampler,
    VocabularySampler,
    mix_seeds,
    quantise_distribution,
    random_integers_numpy,
)
from cache.errors import LostClaimError
from cache.reader import CacheReader
from stages.errors import ModelError, SettingError
from stages.inputs import (
    LABELLED_SAMPLERS,
    MODEL_SAMPLERS,
    NOISE,
    NOISY,
    SELF_GENERATED,
    Inputs,
    SamplingSettings,
    SelfGenerated,
    mix_parts,
    pack_attachments,
    read_samplers,
)
from stages.reporter import Reporter
from stages.tasks import frame_task
from stages.teacher.capabilities import check_room
from stages.teacher.generation import choose_labels, write_texts
from stages.teacher.plan import TeacherPlan
from stages.teacher.teacher import Advance, Teacher

POLL_SECONDS = 1.0
CONTEXT_SEED, TEXT_SEED = 2**40, 2**41
"""Indices of the first seeds of contexts and of self-generated texts, beyond those of all rows."""

AVERAGED_POSITIONS = 8
"""Positions whose next-token distributions over the whole vocabulary are held at once."""

BATCH_POSITIONS = 4096
"""Always the same, so that texts that were lost come out as they were."""


def make_attachments(plan: TeacherPlan, texts: int) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return all attachments of a cache by name, and notes on them for the manifest.

    So many self-generated texts are written, but none where the model cannot write.
    """
    began, reporter = time.monotonic(), plan.reporter
    thresholds = compute_thresholds(plan.inputs, plan.teacher, reporter)
    files = pack_attachments(plan.teacher.table, plan.input_tokenizer, thresholds)
    notes = {"seconds": time.monotonic() - began, SELF_GENERATED: 0}
    made = make_self_generated(plan.teacher, plan.config.seed, texts, reporter)
    if made is None:
        return files, notes
    return files | made.to_files(), notes | {SELF_GENERATED: texts}


def make_self_generated(
    teacher: Teacher, run_seed: int, rows: int, reporter: Reporter
) -> SelfGenerated | None:
    """Have the teacher write so many texts and answer them; None: none, or it cannot write.

    They are of a label each where the task's ``write`` names labels.
    """
    if not rows:
        return None
    seeds, longest = mix_seeds(run_seed, TEXT_SEED, rows), teacher.task.max_length
    try:
        with reporter.track("self-generated texts", rows * longest, 0, "token") as advance:
            labelled = SamplingSettings(labelled=teacher.task.write_labelled is not None)
            tokens = write_texts(teacher, seeds, labelled, longest, advance)
        lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
        with reporter.track("answers to self-generated texts", rows, 0, "text") as advance:
            logits = teacher.answer_texts(tokens, lengths, BATCH_POSITIONS, advance)
    except ModelError as error:
        reporter.warn(f"students of this cache are measured on no self-generated texts: {error}")
        return None
    labels = choose_labels(seeds, logits.shape[1]) if labelled.labelled else None
    return SelfGenerated(tokens, lengths, logits, labels)


def compute_thresholds(
    inputs: Inputs, teacher: Teacher, reporter: Reporter, most: int | None = None
) -> np.ndarray | None:
    """Compute what `unigram` draws by, of so many contexts at most, (V,); None: it is not used."""
    if "contexts" not in inputs.identity:
        return None
    contexts = inputs.identity["contexts"]
    seeds = mix_seeds(inputs.identity["seed"], CONTEXT_SEED, most or contexts["rows"])
    ids = torch.from_numpy(VocabularySampler(teacher.table).draw_ids(seeds, contexts["length"]))
    prefix_ids = teacher.prefix_ids
    if "prompt" in contexts:  # the first of a task's prompts, so that all have the same rows
        first = replace(teacher.task, prompt=contexts["prompt"])
        prefix_ids = list(frame_task(first, teacher.tokenizer, teacher.chat).prefix_ids)
    check_room(teacher.model, "prompt and context of unigram", len(prefix_ids), contexts["length"])
    with reporter.track("average next-token distribution", len(ids), 0, "context") as advance:
        average = average_next_token(teacher, ids, advance, prefix_ids)
    return quantise_distribution(average.numpy())


@torch.inference_mode()
def average_next_token(
    teacher: Teacher,
    ids: torch.Tensor | Sequence[torch.Tensor],
    advance: Advance = lambda count: None,
    prefix_ids: Sequence[int] | None = None,
) -> torch.Tensor:
    """Average the model's own next-token distribution over B contexts (T,) behind a prompt.

    The prompt is the task's, or given by its tokens.  ``advance`` is told of every context, and may
    raise to stop.  Returns probabilities, shape (V,), float64, on the CPU.
    """
    prefix_ids = teacher.prefix_ids if prefix_ids is None else prefix_ids
    total = torch.zeros(len(teacher.table)).double()
    prefix = teacher.look_up(np.array([prefix_ids]))
    with teacher.suspend():
        for row in ids:  # one at a time: (T, V) logits are the largest tensor of all
            inputs = torch.cat([prefix, teacher.table[row.to(teacher.device)][None]], dim=1)
            # A family that does not know how many are to be kept gives those of the prompt too.
            kept = len(row) + 1
            output = teacher.model(inputs_embeds=inputs, use_cache=False, logits_to_keep=kept)
            parts = output.logits[0, -kept:-1].split(AVERAGED_POSITIONS)
            sums = sum(p.float().softmax(dim=-1).sum(dim=0, dtype=torch.float64) for p in parts)
            total += (sums / len(row)).cpu()[: len(total)]
            advance(1)
    if not total.isfinite().all():
        raise ModelError("the model's logits are NaN or infinite: its weights are damaged")
    return total / total.sum()


def fill_cache(
    cache: Cache, plan: TeacherPlan, batch_positions: Callable[[], int], texts: CacheReader | None
) -> int:
    """Compute every shard that is free until the cache is complete.

    Rows that were written for another prompt's cache, ``texts``, are taken over.  Returns the rows
    that this process committed.  Where nothing is left to do the model is not loaded, nor is
    ``batch_positions`` asked for the most positions in one forward pass.
    """
    reporter, total = plan.reporter, cache.layout.rows
    done = sum(len(cache.rows_of(shard)) for shard in cache.committed())
    if done == total:
        return 0
    if done:
        reporter.say(f"continuing: {done:,} of {total:,} rows are there")
    teacher, most, computed, waiting = plan.teacher, batch_positions(), 0, False
    samplers = read_samplers(cache, teacher.table)
    with reporter.track("teacher", total, done, "row") as advance:
        while True:
            reporter.check_stop()
            claim = cache.claim_next()
            if claim is None:
                if cache.is_complete:
                    return computed
                if not waiting:
                    held = len(cache.live_claims())
                    reporter.say(f"waiting: other live processes hold the last {held} shard(s)")
                    waiting = True
                time.sleep(POLL_SECONDS)
                continue
            began, rows = time.monotonic(), cache.rows_of(claim.shard)
            try:
                with claim:
                    inputs = plan.inputs.select(slice(rows.start, rows.stop))
                    if texts is not None:
                        there = texts.read_shard(claim.shard)
                        inputs = Inputs(there["seed"], there["length"], there["tokens"], {})
                    inputs = write_inputs(inputs, samplers, teacher, reporter)
                    columns = answer_inputs(inputs, samplers, teacher, most, advance)
                    cache.commit(claim, columns, time.monotonic() - began)
                computed += len(rows)
            except LostClaimError as error:
                # Suspended, or cut off from the store, for longer than a claim lives.
                reporter.warn(f"{error}; going on with what is free")


def answer_inputs(
    inputs: Inputs,
    samplers: Mapping[str, Sampler],
    teacher: Teacher,
    batch_positions: int,
    advance: Advance,
) -> dict[str, Any]:
    """Compute the columns of some rows of a cache by name, each of shape (rows, …)."""
    tokens = inputs.tokens
    if tokens is None:
        sampler = mix_parts(inputs.identity["name"], samplers)

        def embed(part: np.ndarray, length: int) -> torch.Tensor:
            return sampler.draw_embeddings(inputs.seeds[part], length)

        logits = teacher.answer_rows(inputs.lengths, embed, batch_positions, advance)
    else:
        logits = teacher.answer_texts(tokens, inputs.lengths, batch_positions, advance)
    columns = {
        "seed": inputs.seeds,
        "length": inputs.lengths,
        "logits": logits,
        "probabilities": torch.from_numpy(logits).softmax(dim=1).numpy(),
    }
    return columns if tokens is None else columns | {"tokens": tokens}


def write_inputs(
    inputs: Inputs, samplers: Mapping[str, Sampler], teacher: Teacher, reporter: Reporter
) -> Inputs:
    """Return rows by their lengths with the tokens that the model writes or the samplers draw.

    Rows of which the model writes none are returned as they are.
    """
    written = inputs.written
    if written is None:
        return inputs
    tokens = np.full((len(inputs.seeds), written.longest), -1, dtype=np.int32)
    chosen = written.mixture.choose_parts(inputs.seeds)
    longest = written.longest
    for number, name in enumerate(written.mixture.names):
        rows = np.flatnonzero(chosen == number)
        seeds = inputs.seeds[rows]
        if name not in MODEL_SAMPLERS:
            drawn = _draw_ids(samplers[name], seeds, longest)
            drawn[np.arange(longest) >= inputs.lengths[rows, None]] = -1
            tokens[rows] = drawn
            continue
        sampling, noise = replace(written.sampling, labelled=name in LABELLED_SAMPLERS), None
        if name == NOISY:
            noise = _draw_ids(samplers["unigram"], seeds, longest)
            chances = random_integers_numpy(seeds, longest, stream=Purpose.NOISE)
            noise[chances >= NOISE * 2**32] = -1
            noise[:, 0] = -1  # not every token can begin a text
        with reporter.track("texts", len(rows) * longest, 0, "token") as advance:
            tokens[rows] = write_texts(teacher, seeds, sampling, longest, advance, noise)
    lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
    # So that a chunk hardly mixes lengths, and little of what is read again is padding.
    order = np.argsort(lengths, kind="stable")
    return Inputs(inputs.seeds[order], lengths[order], tokens[order], inputs.identity)


def _draw_ids(sampler: Sampler, seeds: np.ndarray, length: int) -> np.ndarray:
    if not isinstance(sampler, TokenSampler):
        raise SettingError("the inputs of the sampler uniform have no token ids to keep")
    return sampler.draw_ids(seeds, length)
