"""The order in which rows are streamed: a function of a seed and an epoch alone.

Only raw integers of a counter-based generator and a stable sort are used, so the order is the same
in every process and with every version of numpy, whose own shuffles carry no such promise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.format import Layout

Array = npt.NDArray[Any]

LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Cuts:
    """Where the slices of one shard begin and end, in rows of the whole cache."""

    starts: Array
    stops: Array


@dataclass(frozen=True)
class Window:
    """A few shards whose slices are shuffled together, so that no more need be held at once.

    Attributes:
        shards: Their numbers.
        skip: Slices at the head of the window's order that were consumed before.
        epoch: Passes over all shards before this one.
        number: Which window of its epoch it is.
    """

    shards: tuple[int, ...]
    skip: int
    epoch: int
    number: int


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


def cut(layout: Layout, shard: int, slice_rows: int, without: frozenset[int]) -> Cuts:
    """Cut the chunks of a shard into slices; the last of a chunk may be short.

    Args:
        layout: The layout.
        shard: Number of the shard.
        slice_rows: Rows of a slice; more than a chunk has means whole chunks.
        without: Chunks to leave out, numbered through the whole cache.
    """
    rows = layout.rows_of(shard)
    chunks = np.array([c for c in layout.chunks_of(shard) if c not in without], np.int64)
    first = chunks[:, None] * layout.chunk_rows
    starts = first + np.arange(0, layout.chunk_rows, slice_rows)
    stops = np.minimum(starts + slice_rows, np.minimum(first + layout.chunk_rows, rows.stop))
    real = starts < stops
    return Cuts(starts[real], stops[real])


def arrange(cuts: Mapping[int, Cuts], window: Window, seed: int) -> list[tuple[int, int, int]]:
    """Return a window's slices in their order, without those that were consumed before.

    Args:
        cuts: Where the slices of every shard lie.
        window: From :func:`windows` with the same seed.
        seed: Seed of the order.

    Returns:
        For each slice its shard, its first row and the row behind its last, in rows of the whole
        cache.
    """
    owners = np.repeat(window.shards, [len(cuts[shard].starts) for shard in window.shards])
    starts = np.concatenate([cuts[shard].starts for shard in window.shards])
    stops = np.concatenate([cuts[shard].stops for shard in window.shards])
    places = shuffled(len(starts), seed, window.epoch, 1 + window.number)[window.skip :]
    found = (owners[places].tolist(), starts[places].tolist(), stops[places].tolist())
    return list(zip(*found, strict=True))


def windows(sizes: dict[int, int], width: int, seed: int, start: int) -> Iterator[Window]:
    """Yield windows for ever, epoch after epoch, from the one that holds a given slice on.

    Args:
        sizes: Number of slices by shard; at least one slice in all.
        width: Shards of a window; the last of an epoch may have fewer.
        seed: Seed of the order.
        start: Number of slices consumed before.
    """
    shards = np.array(sorted(sizes), np.int64)
    epoch, skip = divmod(start, sum(sizes.values()))
    while True:
        order = shards[shuffled(len(shards), seed, epoch, 0)].tolist()
        for number, first in enumerate(range(0, len(order), width)):
            members = tuple(order[first : first + width])
            size = sum(sizes[shard] for shard in members)
            if skip >= size:
                skip -= size
                continue
            yield Window(members, skip, epoch, number)
            skip = 0
        epoch += 1
