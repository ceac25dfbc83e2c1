"""What a student is trained on: the rows of a cache as the training loop sees them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cache.reader import CacheReader, Columns
from stages.errors import SettingError, Settings, TrainingError
from stages.inputs import read_sampler, read_vocabulary
from stages.lm import Vocabulary
from stages.metrics import Prior
from stages.reporter import Reporter
from stages.student.answers import find_answers, join_answers, open_readers
from stages.student.config import GOLD, TEACHER, StudentConfig, TrainingConfig
from stages.student.prior import find_prior
from stages.tasks import Task

MOST_PADDED = 16384
"""Tokens, padding included, of a step that a GPU takes in one pass: more keep it busy by parts."""


@dataclass(frozen=True)
class Rows:
    """Embeddings (B, T, d_T), probabilities (B, K), and a mask (B, T) where something is padded."""

    embeddings: torch.Tensor
    probabilities: torch.Tensor
    mask: torch.Tensor | None = None


def join_slices(slices: Sequence[Rows], on_gpu: bool) -> list[tuple[Rows, Sequence[Rows]]]:
    """Return what goes through a student in one pass each, with the slices that are in it.

    On a GPU these are all slices of a small step, padded behind to the longest; elsewhere each is
    by itself.
    """
    longest = max(rows.embeddings.shape[1] for rows in slices)
    if not on_gpu or sum(len(rows.embeddings) for rows in slices) * (longest + 1) > MOST_PADDED:
        return [(rows, (rows,)) for rows in slices]
    embeddings, masks = [], []
    for rows in slices:
        mask, room = rows.mask, longest - rows.embeddings.shape[1]
        if mask is None:
            mask = torch.ones_like(rows.embeddings[..., 0], dtype=torch.long)
        masks.append(nn.functional.pad(mask, (0, room)))
        embeddings.append(nn.functional.pad(rows.embeddings, (0, 0, 0, room)))
    probabilities = torch.cat([rows.probabilities for rows in slices])
    return [(Rows(torch.cat(embeddings), probabilities, torch.cat(masks)), slices)]


@dataclass(frozen=True)
class RowSource:
    """Where the loop's rows come from."""

    # takes how many slices are consumed, returns the rest
    open_stream: Callable[[int], Iterator[Rows]]
    held_out: Callable[[], Iterable[Rows]]  # the same ones at every call


@dataclass(frozen=True)
class TrainingData:
    """What a student is trained on, before anything large is loaded."""

    identity: tuple[object, ...]  # what the rows depend on
    record: Mapping[str, Any]  # what the student's record says of them
    load_vocabulary: Callable[[], Vocabulary]
    # takes a directory for temporary files as well; several give answers to the same rows
    open_readers: Callable[[Vocabulary, Path], Sequence[CacheReader]]
    prior: Prior | None = None  # that is taken off the probabilities
    prompts: Mapping[str, Any] = field(default_factory=dict)  # what the task says of further ones

    @property
    def answered_by(self) -> str:
        """Who gave the rows their probabilities."""
        return "the labels" if self.record["labels"] == GOLD else "the teacher"


def open_cached_answers(config: StudentConfig, task: Task, reporter: Reporter) -> TrainingData:
    """Open the caches to train on: the ones named, or the one of each of the task's prompts.

    SettingError: one is of another task, or they are not of the same rows.
    """
    caches = find_answers(config.cache, task, config.source, config.partial)
    names = [label["name"] for label in caches[0].manifest.inputs["task"]["labels"]]
    for cache in caches:
        if (found := cache.manifest.inputs["task"]["name"]) != task.name:
            raise SettingError(
                f"the cache {cache.place} is of the task {found}, the student is to be of "
                f"{task.name}; give that task, or another cache",
                Settings(("task", "source")),
            )
        reporter.say(f"cache: {cache.place} ({cache.manifest.label})")
    readers = open_readers(caches, config.partial)
    first, reader = caches[0], readers[0]
    wanted = task.prior if config.prior is None else config.prior
    prior = find_prior(readers, wanted, names, reporter)
    if reader.rows < first.layout.rows:
        reporter.warn(
            f"training on {reader.rows:,} of {first.layout.rows:,} rows: the cache is partial"
        )
    fingerprints = [cache.fingerprint for cache in caches]
    asked = [cache.manifest.inputs["task"] for cache in caches]
    return TrainingData(
        (*fingerprints, reader.shards, prior and prior.shares),  # biases: CPUs round otherwise
        {
            "fingerprint": first.fingerprint,
            "labels": TEACHER,
            "texts": "",
            "cache": first.manifest.label,
            "sampler": first.manifest.inputs["sampler"]["name"],
            "teacher": first.manifest.notes.get("model", ""),
            "chat": "chat" in first.manifest.inputs,
            "rows": reader.rows,
            "shards": reader.shards,
            "partial": reader.rows < first.layout.rows,
            "preparation": {"seconds": sum(map(sum_seconds, readers)), "rows": reader.rows},
            "prior": None if prior is None else asdict(prior),
        }
        | ({"averaged": fingerprints} if len(caches) > 1 else {}),
        lambda: read_vocabulary(first),
        lambda vocabulary, temporary: readers,
        prior,
        # As a task says it that has several prompts.
        {"others": [[it["prompt"], it["suffix"]] for it in asked[1:]]} if asked[1:] else {},
    )


def sum_seconds(reader: CacheReader) -> float:
    """Return how long the rows that are read took to compute, in seconds, over all who did."""
    preparation = reader.cache.manifest.notes.get("seconds", 0.0)
    return float(preparation) + sum(reader.cache.record(shard).seconds for shard in reader.shards)


def open_rows(
    readers: Sequence[CacheReader],
    table: torch.Tensor,
    training: TrainingConfig,
    held_out_rows: int,
    device: torch.device,
    prior: Prior | None = None,
) -> RowSource:
    """Turn a cache, or several of the same rows, into the training loop's rows, some held out.

    ``table`` is the language model's, shape (V, d_T), on the device to train on.  Of the rows at
    most a tenth are held out, as whole chunks.  The prior is taken off their probabilities.
    """
    reader = readers[0]
    sampler = read_sampler(reader.cache, table)
    held = choose_held_out(reader.chunks, reader.cache.layout.chunk_rows, held_out_rows)
    # Embeddings are made anew each time: those of a large model would fill the memory.
    kept = [*zip(*(each.read_chunks(held) for each in readers), strict=True)]

    def embed(parts: tuple[Columns, ...]) -> Rows:
        part = parts[0]
        answers = join_answers(parts)
        answers = answers.copy() if prior is None else prior.remove(answers)
        probabilities = torch.from_numpy(answers).to(device)
        lengths = part["length"]
        longest = int(lengths.max())
        if sampler is not None:
            return Rows(sampler.draw_embeddings(part["seed"], longest), probabilities)
        # Token ids, padded with -1.
        tokens = torch.from_numpy(part["tokens"][:, :longest].astype(np.int64)).to(device)
        mask = None if int(lengths.min()) == longest else (tokens >= 0).long()
        return Rows(table[tokens.clamp(min=0)], probabilities, mask)

    def open_stream(consumed: int) -> Iterator[Rows]:
        slice_rows = training.batch_size // training.lengths_per_batch
        # The order depends on what all readers have in common.
        streams = (
            each.stream_slices(slice_rows, training.seed, consumed, frozenset(held))
            for each in readers
        )
        return map(embed, zip(*streams, strict=True))

    return RowSource(open_stream, lambda: map(embed, kept))


def choose_held_out(chunks: tuple[int, ...], chunk_rows: int, rows: int) -> list[int]:
    """Choose chunks to hold out, evenly spaced, so that every student of a cache has the same.

    TrainingError: there are fewer than two chunks.
    """
    if len(chunks) < 2:
        raise TrainingError(
            f"the cache is {len(chunks)} chunk(s) of {chunk_rows} rows; training needs at least "
            "two, one of them held out: use more rows, or smaller chunks"
        )
    count = max(1, min(-(-rows // chunk_rows), len(chunks) // 10))
    return [chunks[int((k + 0.5) * len(chunks) / count)] for k in range(count)]
