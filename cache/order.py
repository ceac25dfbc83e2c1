"""The order in which rows are streamed: a function of a seed and an epoch alone.

Only raw integers of a counter-based generator and a stable sort are used, so the order is the same
in every process and with every version of numpy, whose own shuffles carry no such promise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.format import Layout

Array = npt.NDArray[Any]

LARGEST_SEED = 2**64 - 1


def shuffled(count: int, seed: int, epoch: int, part: int) -> Array:
    """Return the integers below ``count`` in an order of their own for each (seed, epoch, part).

    Args:
        count: How many.
        seed: In [0, 2**64).
        epoch: In [0, 2**64).
        part: 0 for the order of shards, 1 + the window's number for that of its slices.
    """
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([0, 0, 0, part], np.uint64)
    return np.argsort(np.random.Philox(key=key, counter=counter).random_raw(count), kind="stable")


def cut(layout: Layout, shard: int, slice_rows: int, without: frozenset[int]) -> Array:
    """Cut the chunks of a shard into slices; the last of a chunk may be short.

    Args:
        layout: The layout.
        shard: Number of the shard.
        slice_rows: Rows of a slice; more than a chunk has means whole chunks.
        without: Chunks to leave out, numbered through the whole cache.

    Returns:
        The shard, the first row and the row behind the last of each slice, in rows of the whole
        cache; shape (slices, 3).
    """
    chunks = np.array([c for c in layout.chunks_of(shard) if c not in without], np.int64)
    first = chunks[:, None] * layout.chunk_rows
    starts = first + np.arange(0, layout.chunk_rows, slice_rows)
    end = np.minimum(first + layout.chunk_rows, layout.rows_of(shard).stop)
    stops = np.minimum(starts + slice_rows, end)
    real = starts < stops
    return np.stack([np.full(real.sum(), shard), starts[real], stops[real]], 1)


def windows(slices: Mapping[int, Array], width: int, seed: int, start: int) -> Iterator[Array]:
    """Yield the slices of a few shards, shuffled together, epoch after epoch for ever.

    Args:
        slices: From :func:`cut`, by shard; at least one slice in all.
        width: Shards of a window, whose slices are shuffled together so that no more need be
            held at once; the last of an epoch may have fewer.
        seed: Seed of the order.
        start: Number of slices consumed before, which are left out.

    Returns:
        An endless iterator of arrays as :func:`cut` makes them.
    """
    shards = np.array(sorted(slices), np.int64)
    epoch, skip = divmod(start, sum(map(len, slices.values())))
    while True:
        order = shards[shuffled(len(shards), seed, epoch, 0)].tolist()
        for number, first in enumerate(range(0, len(order), width), 1):
            members = order[first : first + width]
            size = sum(len(slices[shard]) for shard in members)
            if skip < size:
                together = np.concatenate([slices[shard] for shard in members])
                yield together[shuffled(size, seed, epoch, number)[skip:]]
            skip = max(skip - size, 0)
        epoch += 1
