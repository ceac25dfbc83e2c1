"""Filling a cache: claim a shard, compute it, and commit it while the next one is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cache.directory import Cache
from cache.draw import Sampler, TokenSampler
from cache.errors import LostClaimError
from cache.stores import Claim
from stages.errors import SettingError
from stages.inputs import MODEL_SAMPLERS, Inputs, mix_parts, read_samplers
from stages.teacher.generation import write_texts
from stages.teacher.plan import TeacherPlan
from stages.teacher.teacher import Callbacks, Teacher

POLL_SECONDS = 1.0


class ShardWriter:
    """Commits one shard at a time, in the background and in order; a context manager.

    Leaving it waits for the shard that is being committed, whatever the reason for leaving: its
    rows are computed, and a commit takes milliseconds to seconds.

    Attributes:
        rows: Rows committed so far.
    """

    def __init__(self, cache: Cache, warn: Callable[[str], None]) -> None:
        self.rows = 0
        self._cache, self._warn = cache, warn
        self._thread = ThreadPoolExecutor(1, "shard-writer")
        self._pending: Future[None] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.settle()
        finally:
            self._thread.shutdown()

    def put(self, claim: Claim, columns: Mapping[str, np.ndarray], seconds: float) -> None:
        """Commit a shard in the background, once the one before it is committed; ends its claim.

        Raises:
            CacheError: The one before could not be committed; nor is this one then.
        """
        try:
            self.settle()
        except BaseException:
            claim.release()
            raise
        self._pending = self._thread.submit(self._commit, claim, columns, seconds)

    def settle(self) -> None:
        """Wait until what was put is committed.

        Raises:
            CacheError: It could not be, or a row of it is not finite.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except LostClaimError as error:
            # Suspended, or cut off from the store, for longer than a claim lives.
            self._warn(f"{error}; going on with what is free")

    def _commit(self, claim: Claim, columns: Mapping[str, np.ndarray], seconds: float) -> None:
        with claim:
            self._cache.commit(claim, columns, seconds)
        self.rows += len(columns["seed"])


def fill_cache(cache: Cache, plan: TeacherPlan, batch_positions: Callable[[], int]) -> int:
    """Compute every shard that is free until the cache is complete.

    Args:
        cache: The cache.
        plan: What it is of; the model is not loaded where nothing is left to do.
        batch_positions: Gives the most positions in one forward pass; likewise.

    Returns:
        Rows that this process committed.

    Raises:
        CacheError: The cache is damaged, or an answer is not finite.
        Interrupted: A stop was asked for; committed shards stay.
    """
    reporter, total = plan.reporter, cache.layout.rows
    done = sum(len(cache.rows_of(shard)) for shard in cache.committed())
    if done == total:
        return 0
    if done:
        reporter.say(f"continuing: {done:,} of {total:,} rows are there")
    teacher, most = plan.teacher, batch_positions()
    samplers = read_samplers(cache, teacher.table)
    waiting = False
    with (
        reporter.track("teacher", total, done, "row") as show,
        ShardWriter(cache, reporter.warn) as writer,
    ):

        def advance(count: int) -> None:
            show(count)
            reporter.check_stop()

        while True:
            reporter.check_stop()
            claim = cache.claim_next()
            if claim is None:
                writer.settle()
                if cache.is_complete:
                    return writer.rows
                if not waiting:
                    held = len(cache.live_claims())
                    reporter.say(f"waiting: other live processes hold the last {held} shard(s)")
                    waiting = True
                time.sleep(POLL_SECONDS)
                continue
            began = time.monotonic()
            try:
                rows = cache.rows_of(claim.shard)
                inputs = plan.inputs.select(slice(rows.start, rows.stop))
                callbacks = Callbacks(advance, reporter.warn)
                columns = answer_inputs(inputs, samplers, teacher, most, callbacks)
            except BaseException:
                claim.release()
                raise
            writer.put(claim, columns, time.monotonic() - began)


def answer_inputs(
    inputs: Inputs,
    samplers: Mapping[str, Sampler],
    teacher: Teacher,
    batch_positions: int,
    callbacks: Callbacks,
) -> dict[str, Any]:
    """Compute the columns of some rows of a cache.

    Args:
        inputs: Their inputs.
        samplers: What draws them, by name; nothing draws texts.
        teacher: Who answers.
        batch_positions: Most positions in one forward pass.
        callbacks: Told about progress and trouble.

    Returns:
        The columns by name, each of shape (rows, …).
    """
    inputs = write_inputs(inputs, samplers, teacher, callbacks)
    tokens = inputs.tokens
    sampler = mix_parts(inputs.identity["name"], samplers) if tokens is None else None

    def embed(part: np.ndarray, length: int) -> torch.Tensor:
        if sampler is not None:
            return sampler.draw_embeddings(inputs.seeds[part], length)
        return teacher.look_up(tokens[part, :length])  # type: ignore[index]

    logits = teacher.answer_rows(inputs.lengths, embed, batch_positions, callbacks)
    columns = {
        "seed": inputs.seeds,
        "length": inputs.lengths,
        "logits": logits,
        "probabilities": torch.from_numpy(logits).softmax(dim=1).numpy(),
    }
    return columns if tokens is None else columns | {"tokens": tokens}


def write_inputs(
    inputs: Inputs, samplers: Mapping[str, Sampler], teacher: Teacher, callbacks: Callbacks
) -> Inputs:
    """Write and draw the tokens of rows, those of like length side by side.

    Args:
        inputs: Rows of which the model writes some or all; others are returned as they are.
        samplers: What draws the others, by name.
        teacher: Who writes.
        callbacks: Asked about a stop, and told about trouble.

    Returns:
        The rows by their lengths, with their tokens.

    Raises:
        ModelError: The model cannot continue its prompt.
        SettingError: A part draws no token ids.
    """
    written = inputs.written
    if written is None:
        return inputs
    tokens = np.full((len(inputs.seeds), written.longest), -1, dtype=np.int32)
    chosen = written.mixture.choose_parts(inputs.seeds)
    silent = Callbacks(lambda texts: callbacks.advance(0), callbacks.warn)
    for number, name in enumerate(written.mixture.names):
        rows = np.flatnonzero(chosen == number)
        seeds = inputs.seeds[rows]
        if name in MODEL_SAMPLERS:
            sampling = replace(written.sampling, labelled=name == "self-labelled")
            tokens[rows] = write_texts(
                teacher, seeds, sampling, written.longest, silent, written.shortest
            )
            continue
        sampler = samplers[name]
        if not isinstance(sampler, TokenSampler):
            raise SettingError(f"the inputs of the sampler {name} have no token ids to keep")
        drawn = sampler.draw_ids(seeds, written.longest)
        drawn[np.arange(written.longest) >= inputs.lengths[rows, None]] = -1
        tokens[rows] = drawn
    lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
    # So that a chunk hardly mixes lengths, and little of what is read again is padding.
    order = np.argsort(lengths, kind="stable")
    return Inputs(inputs.seeds[order], lengths[order], tokens[order], inputs.identity)
