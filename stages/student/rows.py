"""Cached rows as the training loop sees them, some of them held out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cache.draw import Sampler
from cache.reader import CacheReader, Slice
from stages.errors import TrainingError
from stages.inputs import read_sampler
from stages.student.config import TrainingConfig
from stages.student.loop import Rows, RowSource


def open_rows(
    reader: CacheReader,
    table: torch.Tensor,
    training: TrainingConfig,
    held_out_rows: int,
    device: torch.device,
) -> RowSource:
    """Turn a cache into the training loop's rows, some of them held out.

    Args:
        reader: The cache.
        table: The language model's embedding table, shape (V, d_T), on the device to train on.
        training: How the rows are read.
        held_out_rows: Rows to keep out, as whole chunks, at most a tenth of all.
        device: Device to train on.

    Raises:
        TrainingError: The cache is a single chunk.
    """
    sampler = read_sampler(reader.cache, table)
    held = choose_held_out(reader.chunks, reader.cache.layout.chunk_rows, held_out_rows)
    # Embeddings are made anew each time: those of a large model would fill the memory.
    kept = reader.read_chunks(held)

    def open_stream(consumed: int) -> Iterator[Rows]:
        slices = reader.stream_slices(
            training.batch_size // training.lengths_per_batch,
            seed=training.seed,
            start=consumed,
            exclude_chunks=frozenset(held),
        )
        return (to_rows(part, sampler, table, device) for part in slices)

    def held_out() -> Iterable[Rows]:
        return (to_rows(part, sampler, table, device) for part in kept)

    return RowSource(open_stream, held_out, kept[0].columns["probabilities"].shape[1])


def choose_held_out(chunks: tuple[int, ...], chunk_rows: int, rows: int) -> list[int]:
    """Choose chunks to hold out, evenly spaced, so that every student of a cache has the same.

    Raises:
        TrainingError: There are fewer than two chunks.
    """
    if len(chunks) < 2:
        raise TrainingError(
            f"the cache is {len(chunks)} chunk(s) of {chunk_rows} rows; training needs at least "
            "two, one of them held out: use more rows, or smaller chunks"
        )
    count = max(1, min(-(-rows // chunk_rows), len(chunks) // 10))
    return [chunks[int((k + 0.5) * len(chunks) / count)] for k in range(count)]


def to_rows(
    part: Slice, sampler: Sampler | None, table: torch.Tensor, device: torch.device
) -> Rows:
    """Turn a slice of answers into what the training loop sees.

    Args:
        part: Columns ``probabilities`` (B, K) and ``length`` (B,), and ``seed`` (B,) or, without a
            sampler, ``tokens`` (B, longest) padded with -1.
        sampler: Makes embeddings from seeds; None where there are tokens.
        table: The language model's embedding table, shape (V, d_T), on the device.
        device: Device to train on.
    """
    probabilities = torch.from_numpy(part.columns["probabilities"].copy()).to(device)
    lengths = part.columns["length"]
    longest = int(lengths.max())
    if sampler is not None:
        return Rows(sampler.draw_embeddings(part.columns["seed"], longest), probabilities)
    tokens = torch.from_numpy(part.columns["tokens"][:, :longest].astype(np.int64)).to(device)
    embeddings = table[tokens.clamp(min=0)]
    if int(lengths.min()) == longest:
        return Rows(embeddings, probabilities)
    return Rows(embeddings, probabilities, (tokens >= 0).long())
