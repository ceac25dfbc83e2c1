"""What safety costs: ``python -m benchmarks.storage [--folder DIR] [--out benchmarks/storage.md]``.

Shards written and read by the cache, and beside them in the same run the raw disk and plain
``np.save`` and ``np.load`` of the same values; bytes a row; rows a second of a shuffled stream on
one core, under what hashing and copying alone would allow; and what choosing the next shard takes
in a cache of many.  Ways take turns and medians are shown; times are those of the clock, except
the stream's, which is processor time.  Reads come from the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import format_head, format_row, run_sections, timed
from cache.directory import Cache
from cache.format import Layout, Manifest, answer_columns, encode, object_path, record_path
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores import Claim

Columns = dict[str, npt.NDArray[Any]]

CHUNK_ROWS = 64
CLASSES = (2, 4, 28)
ROUNDS = {4096: 24, 65536: 8}
STREAM_ROWS, STREAM_ROUNDS = 2**18, 9


def main() -> None:
    """Measure everything, print it, and keep it where told to."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.storage")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="on the disk to measure")
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="storage-") as name:
        folder = Path(name)
        sections = {
            "Writing and reading a shard": lambda: compare_shards(folder),
            f"A shuffled stream, two classes, chunks of {CHUNK_ROWS} rows, one core": (
                lambda: measure_stream(folder / "stream")
            ),
            "Between two shards, all but one committed": lambda: measure_claims(folder / "claims"),
        }
        command = ["benchmarks.storage", *sys.argv[1:]]
        run_sections("What safety costs", command, sections, options.out)


def compare_shards(folder: Path) -> Iterator[str]:
    """Yield the tables of writing, reading and sizes."""
    sizes: dict[int, list[float]] = {}
    reading = [format_head(("rows", "classes", "read_shard, ms", *READS))]
    yield format_head(("rows", "classes", "MB", "commit, ms", *WRITES))
    for rows in ROUNDS:
        for classes in CLASSES:
            shards = Shards(folder / f"{rows}-{classes}", rows, classes)
            commit, *others = shards.measure_writes()
            sizes.setdefault(classes, []).append(shards.count_bytes() / shards.cache.layout.rows)
            ratios = [f"{commit / other:.1f}" for other in others]
            head = (f"{rows:,}", classes)
            yield format_row(
                (*head, f"{len(shards.data) / 1e6:.2f}", f"{1e3 * commit:.1f}", *ratios)
            )
            read, *others = shards.measure_reads()
            ratios = [f"{read / other:.1f}" for other in others]
            reading.append(format_row((*head, f"{1e3 * read:.2f}", *ratios)))
    yield "\n" + "\n".join(reading)
    yield "\nBytes a row, every file of the cache counted:\n"
    yield format_head(("classes", "values alone", *(f"shards of {rows:,} rows" for rows in ROUNDS)))
    for classes, found in sizes.items():
        values = sum(column.row_bytes for column in answer_columns(classes).values())
        yield format_row((classes, values, *(f"{size:.2f}" for size in found)))


WRITES = ("× raw disk", "× np.save, synced", "× np.save")
READS = ("× raw read", "× SHA-256 alone", "× np.load")


class Shards:
    """Shards of one shape, and the same values otherwise written."""

    def __init__(self, folder: Path, rows: int, classes: int) -> None:
        self._folder, self._rounds = folder, ROUNDS[rows]
        self.cache = make_cache(folder, rows * self._rounds, rows, classes)
        self._columns = make_columns(self.cache.layout, rows)
        self.data = encode_all(self.cache.layout, self._columns)

    def measure_writes(self) -> list[float]:
        """Write every shard in all ways; return the median seconds of a commit and of WRITES."""
        rounds = []
        for turn in range(self._rounds):
            os.sync()  # what np.save has left behind is not the next commit's to write
            folder = self._folder / f"plain-{turn}"
            folder.mkdir()
            ways = (
                partial(write, folder / "raw", lambda file: file.write(self.data), True),
                partial(self._save, folder, "synced", True),
                partial(self._save, folder, "plain", False),
            )
            rounds.append([commit_next(self.cache, self._columns), *map(timed, ways)])
        return medians(rounds)

    def measure_reads(self) -> list[float]:
        """Read every shard in all ways; return the median seconds of read_shard and of READS."""
        rounds = []
        for shard in 3 * list(range(self._rounds)):
            reader, root = CacheReader(self.cache), self.cache.place.path
            columns = self.cache.layout.columns.items()
            files = [root / object_path(name, column, shard) for name, column in columns]
            plain = [self._folder / f"plain-{shard}" / f"{name}-plain" for name in self._columns]
            ways = (
                partial(reader.read_shard, shard),
                lambda files=files: [path.read_bytes() for path in files],
                lambda: hashlib.sha256(self.data).digest(),
                lambda plain=plain: [np.load(path) for path in plain],
            )
            rounds.append([timed(way) for way in ways])
        return medians(rounds)

    def count_bytes(self) -> int:
        """Return the size of all files of the cache."""
        return sum(size for _, size in self.cache.files.walk())

    def _save(self, folder: Path, kind: str, sync: bool) -> None:
        for name, values in self._columns.items():
            write(folder / f"{name}-{kind}", lambda file, v=values: np.save(file, v), sync)


def measure_stream(folder: Path) -> Iterator[str]:
    """Yield the table of rows a second, on one core."""
    heads = ("stream, million rows/s", "reading shards alone", "SHA-256 alone", "copying alone")
    yield format_head(("rows of a shard", *heads))
    for shard_rows in ROUNDS:
        cache = make_cache(folder / str(shard_rows), STREAM_ROWS, shard_rows, classes=2)
        columns = make_columns(cache.layout, shard_rows)
        while not cache.is_complete:
            commit_next(cache, columns)
        data, reader = encode_all(cache.layout, columns), CacheReader(cache)

        def stream(reader: CacheReader = reader) -> int:
            chunks = islice(reader.stream_slices(CHUNK_ROWS, 0), len(reader.chunks))
            return sum(chunk.rows for chunk in chunks)

        ways = (
            stream,
            lambda reader=reader: [reader.read_shard(shard) for shard in reader.shards],
            lambda reader=reader, data=data: [hashlib.sha256(data) for _ in reader.shards],
            lambda reader=reader, data=data: [bytearray(data) for _ in reader.shards],
        )
        rounds = [[timed(way, time.thread_time) for way in ways] for _ in range(STREAM_ROUNDS)]
        rates = [f"{STREAM_ROWS / seconds / 1e6:.1f}" for seconds in medians(rounds)]
        yield format_row((f"{shard_rows:,}", *rates))
    yield "\nTo reach: 2 million rows/s."


def measure_claims(folder: Path) -> Iterator[str]:
    """Yield the table of what a worker spends between two shards."""
    yield format_head(("shards", "committed(), ms", "claim_next(), ms"))
    for shards in (1000, 10_000):
        cache = make_cache(folder / str(shards), shards, 1, classes=2, chunk_rows=1)
        names = [cache.place.path / record_path(shard) for shard in range(shards - 1)]
        names[0].parent.mkdir()
        for name in names:
            name.touch()  # only names matter here
        ways = (cache.committed, lambda cache=cache: claim(cache).release())
        seconds = medians([[timed(way) for way in ways] for _ in range(11)])
        yield format_row((f"{shards:,}", *(f"{1e3 * each:.2f}" for each in seconds)))


def make_cache(
    root: Path, rows: int, shard_rows: int, classes: int, chunk_rows: int = CHUNK_ROWS
) -> Cache:
    """Create a cache as a teacher does that answers random inputs."""
    layout = Layout(rows, chunk_rows, shard_rows, answer_columns(classes))
    return create_or_open(root, Manifest("benchmark", {"model": "none"}, layout), dict)


def make_columns(layout: Layout, rows: int) -> Columns:
    """Return values that no file system can make smaller."""
    generator = np.random.default_rng(0)
    return {
        name: (
            generator.normal(size=(rows, *column.shape)).astype(column.dtype)
            if column.is_float
            else generator.integers(0, 2**31, (rows, *column.shape)).astype(column.dtype)
        )
        for name, column in layout.columns.items()
    }


def encode_all(layout: Layout, columns: Columns) -> bytes:
    """Return the very bytes of a shard's files."""
    parts = (encode(layout, column, columns[name]) for name, column in layout.columns.items())
    return b"".join(parts)


def write(path: Path, fill: Callable[[Any], object], sync: bool) -> None:
    """Write a file, and wait until the disk has it where that is asked for."""
    with path.open("xb") as file:
        fill(file)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def claim(cache: Cache) -> Claim:
    """Claim the next shard that is free."""
    found = cache.claim_next()
    if found is None:
        raise RuntimeError("no shard is free")
    return found


def commit_next(cache: Cache, columns: Columns) -> float:
    """Claim a shard, commit it, and return the seconds of the commit."""
    with claim(cache) as held:
        return timed(lambda: cache.commit(held, columns, 1.0))


def medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of each way over the rounds."""
    return [statistics.median(way) for way in zip(*rounds, strict=True)]


if __name__ == "__main__":
    main()
