"""Rows of committed shards, checked before a byte of them is decoded, at random or as a stream.

The order of a stream is a function of a seed and an epoch alone, by raw integers of a counter-based
generator and a stable sort: the same in every process and with every version of numpy.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.directory import Cache
from cache.errors import Hint, IncompleteError
from cache.format import Layout

Array = npt.NDArray[Any]
Columns = dict[str, Array]
"""Consecutive rows of one chunk by column, read-only (rows, *column.shape); they may be views into
a whole shard, so copy what is to be kept for long."""

WINDOW_SHARDS = 4
"""Shards held and mixed at once: more mix better, and cost memory."""


class CacheReader:
    """What a training reads a cache through.

    Its ``shards`` are sorted, and fixed when the reader is made, so that a cache which is being
    filled meanwhile does not change the order of a stream.
    """

    def __init__(
        self, cache: Cache, partial: bool = False, shards: Collection[int] | None = None
    ) -> None:
        """Check that there is enough to read: all shards, or those that are there (``partial``).

        ``shards`` are the very ones to read, to continue a training that began on these.

        Raises:
            IncompleteError: Shards are missing and ``partial`` is false, or none are committed,
                or some of ``shards`` are not.
            DamageError: zarr's metadata files were changed.
        """
        self.cache = cache
        committed = cache.committed()
        wanted = range(cache.shards) if shards is None else sorted(set(shards))
        if shards is None and partial and committed:
            wanted = committed
        if not set(wanted) <= set(committed):
            rows = sum(len(cache.rows_of(shard)) for shard in committed)
            raise IncompleteError(
                f"{cache.place} holds {len(committed)} of {cache.shards} shards, {rows} of "
                f"{cache.layout.rows} rows",
                Hint.FILL_OR_PARTIAL if committed else Hint.FILL,
                cache.place,
            )
        self.shards = tuple(wanted)
        cache.check_metadata()

    @property
    def rows(self) -> int:
        """Number of rows that are read."""
        return sum(len(self.cache.rows_of(shard)) for shard in self.shards)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Chunks that are read, numbered through the whole cache, sorted."""
        layout = self.cache.layout
        return tuple(chunk for shard in self.shards for chunk in layout.chunks_of(shard))

    def read_shard(self, shard: int) -> Columns:
        """Return the rows of a shard: a read-only array (rows, *column.shape) by column.

        DamageError: the commit record or a file is missing, damaged or of another cache.
        """
        record = self.cache.record(shard)
        return {name: self.cache.read_column(record, name) for name in self.cache.layout.columns}

    def read_chunks(self, chunks: Iterable[int]) -> list[Columns]:
        """Return whole chunks of the reader's, such as those held out of a stream, in order.

        DamageError: as for :meth:`read_shard`.
        """
        layout = self.cache.layout
        shard_of = {chunk: chunk // layout.chunks_per_shard for chunk in chunks}
        found = {}
        for shard in set(shard_of.values()):
            columns, rows = self.read_shard(shard), layout.rows_of(shard)
            for chunk in [chunk for chunk, owner in shard_of.items() if owner == shard]:
                begin = chunk * layout.chunk_rows
                part = _slice(columns, rows.start, begin, min(begin + layout.chunk_rows, rows.stop))
                # Copies, since a few chunks held for a whole training should not hold shards.
                found[chunk] = {name: values.copy() for name, values in part.items()}
                for values in found[chunk].values():
                    values.flags.writeable = False
        return [found[chunk] for chunk in shard_of]

    def stream_slices(
        self,
        slice_rows: int,
        seed: int,
        start: int = 0,
        exclude_chunks: frozenset[int] = frozenset(),
    ) -> Iterator[Columns]:
        """Yield every row once per epoch, epoch after epoch for ever, in shuffled slices.

        The order is a function of the seed, the epoch, ``slice_rows``, the reader's shards and the
        excluded chunks.  A few shards are held at a time and their slices shuffled together; a
        chunk's last slice may have fewer rows.  Of the ``start`` slices that were consumed before
        only the few shards held then are read.  DamageError: as for :meth:`read_shard`.
        """
        layout = self.cache.layout
        slices = {shard: cut(layout, shard, slice_rows, exclude_chunks) for shard in self.shards}
        for window in windows(slices, WINDOW_SHARDS, seed, start):
            # Shards without a slice, all of whose chunks are excluded, need not be read.
            data = {shard: self.read_shard(shard) for shard in np.unique(window[:, 0]).tolist()}
            for shard, begin, end in window.tolist():
                yield _slice(data[shard], self.cache.rows_of(shard).start, begin, end)
            del data  # before the next window is read, or two would be held


def _slice(columns: Columns, first: int, begin: int, end: int) -> Columns:
    return {name: values[begin - first : end - first] for name, values in columns.items()}


def shuffled(count: int, seed: int, epoch: int, part: int) -> Array:
    """Return the integers below ``count`` in another order for each (seed, epoch, part).

    Part 0 is the order of shards, 1 + a window's number that of its slices.
    """
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([0, 0, 0, part], np.uint64)
    return np.argsort(np.random.Philox(key=key, counter=counter).random_raw(count), kind="stable")


def cut(layout: Layout, shard: int, slice_rows: int, without: frozenset[int]) -> Array:
    """Cut the chunks of a shard, but some, into slices; the last of a chunk may be short.

    The result, (slices, 3), says of each its shard, and its first row and that behind its last.
    """
    chunks = np.array([c for c in layout.chunks_of(shard) if c not in without], np.int64)
    first = chunks[:, None] * layout.chunk_rows
    starts = first + np.arange(0, layout.chunk_rows, slice_rows)
    end = np.minimum(first + layout.chunk_rows, layout.rows_of(shard).stop)
    stops = np.minimum(starts + slice_rows, end)
    real = starts < stops
    return np.stack([np.full(real.sum(), shard), starts[real], stops[real]], 1)


def windows(slices: Mapping[int, Array], width: int, seed: int, start: int) -> Iterator[Array]:
    """Yield the slices that :func:`cut` made of each shard, epoch after epoch for ever.

    Those of ``width`` shards are shuffled together, so that no more need be held at once.  The
    ``start`` slices that were consumed before are left out.
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
