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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from cache.directory import Cache
from cache.format import Layout, Manifest, answer_columns, encode, object_path, record_path
from cache.opening import create_or_open
from cache.reader import CacheReader

Columns = dict[str, npt.NDArray[Any]]

CHUNK_ROWS = 64
CLASSES = (2, 4, 28)
ROUNDS = {4096: 24, 65536: 8}
STREAM_ROWS, STREAM_ROUNDS = 2**18, 9
WANTED_ROWS = 2e6


def main() -> None:
    """Measure everything, print it, and keep it where told to."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.storage")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="on the disk to measure")
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for part in (describe_run, compare_writes_and_reads, measure_stream, measure_claims):
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="storage-") as folder:
            for line in part(Path(folder)):
                print(line, flush=True)
                lines.append(line)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_run(_: Path) -> Iterator[str]:
    """Yield how busy the machine is, since that is in every figure."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    yield "# What safety costs (`python -m benchmarks.storage`)\n"
    yield f"{os.cpu_count()} cores, load average {load} at the start; medians of one run."


def compare_writes_and_reads(folder: Path) -> Iterator[str]:
    """Yield the tables of writing, reading and sizes."""
    found = [Shards(folder, rows, classes).compare() for rows in ROUNDS for classes in CLASSES]
    yield "\n## Writing a shard\n"
    yield (
        f"Getting one new byte onto the disk takes {1e3 * time_sync(folder):.2f} ms here; a commit "
        f"waits for the disk {count_syncs(folder)} times.\n"
    )
    yield (
        "| rows | classes | MB | commit, ms | × raw disk | × np.save, synced | × np.save |\n"
        "|---|---|---|---|---|---|---|"
    )
    for one in found:
        own = one.writes["commit"]
        ratios = " | ".join(
            f"{own / one.writes[way]:.1f}" for way in ("raw disk", "np.save, synced", "np.save")
        )
        shape = f"{one.rows:,} | {one.classes} | {one.size / 1e6:.2f}"
        yield f"| {shape} | {1e3 * own:.1f} | {ratios} |"
    yield "\n## Reading a shard from the page cache\n"
    yield (
        "| rows | classes | read_shard, ms | × raw read | × SHA-256 alone | × np.load |\n"
        "|---|---|---|---|---|---|"
    )
    for one in found:
        own = one.reads["read_shard"]
        ratios = " | ".join(
            f"{own / one.reads[way]:.1f}" for way in ("raw read", "SHA-256", "np.load")
        )
        yield f"| {one.rows:,} | {one.classes} | {1e3 * own:.2f} | {ratios} |"
    yield "\n## Bytes a row, every file of the cache counted\n"
    yield "| classes | values alone | shards of 4,096 rows | of 65,536 rows |\n|---|---|---|---|"
    for small, large in zip(found[: len(CLASSES)], found[len(CLASSES) :], strict=True):
        values = sum(column.row_bytes for column in answer_columns(small.classes).values())
        yield f"| {small.classes} | {values} | {small.row_bytes:.2f} | {large.row_bytes:.2f} |"


@dataclass(frozen=True)
class Comparison:
    """Median seconds by way, for shards of one shape."""

    rows: int
    classes: int
    size: int
    row_bytes: float
    writes: dict[str, float]
    reads: dict[str, float]


class Shards:
    """Shards of one shape, and the same values otherwise written."""

    def __init__(self, folder: Path, rows: int, classes: int) -> None:
        self.rows, self.classes, self.rounds = rows, classes, ROUNDS[rows]
        self.folder = folder / f"{rows}-{classes}"
        self.cache = make_cache(self.folder, rows * self.rounds, rows, classes)
        self.columns = make_columns(self.cache.layout, rows)
        self.raw = b"".join(encode_all(self.cache.layout, self.columns))

    def compare(self) -> Comparison:
        """Write and read every shard in all ways, taking turns."""
        writes = [self._write(i) for i in range(self.rounds)]
        size = sum(size for _, size in self.cache.files.walk())
        reads = [self._read(i) for _ in range(3) for i in range(self.rounds)]
        return Comparison(
            rows=self.rows,
            classes=self.classes,
            size=len(self.raw),
            row_bytes=size / self.cache.layout.rows,
            writes=medians(writes),
            reads=medians(reads),
        )

    def _write(self, turn: int) -> dict[str, float]:
        os.sync()  # what np.save has left behind is not the next commit's to write
        own = commit_next(self.cache, self.columns)
        folder = self.folder / f"plain-{turn}"
        folder.mkdir()
        return {
            "commit": own,
            "raw disk": timed(lambda: write_raw(folder / "raw", self.raw)),
            "np.save, synced": timed(lambda: self._save(folder, "synced", sync=True)),
            "np.save": timed(lambda: self._save(folder, "plain", sync=False)),
        }

    def _save(self, folder: Path, kind: str, sync: bool) -> None:
        for name, values in self.columns.items():
            with (folder / f"{name}-{kind}.npy").open("wb") as file:
                np.save(file, values)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())

    def _read(self, shard: int) -> dict[str, float]:
        reader = CacheReader(self.cache)
        files = [
            self.cache.place.path / object_path(name, column, shard)
            for name, column in self.cache.layout.columns.items()
        ]
        plain = [self.folder / f"plain-{shard}" / f"{name}-plain.npy" for name in self.columns]
        return {
            "read_shard": timed(lambda: reader.read_shard(shard)),
            "raw read": timed(lambda: [path.read_bytes() for path in files]),
            "SHA-256": timed(lambda: hashlib.sha256(self.raw).digest()),
            "np.load": timed(lambda: [np.load(path) for path in plain]),
        }


def measure_stream(folder: Path) -> Iterator[str]:
    """Yield the table of rows a second, on one core."""
    yield f"\n## A shuffled stream, two classes, slices of {CHUNK_ROWS} rows, one core\n"
    yield (
        "| rows of a shard | stream, million rows/s | reading shards alone | "
        "SHA-256 alone | copying alone |\n|---|---|---|---|---|"
    )
    for shard_rows in ROUNDS:
        rates = stream_rates(folder / str(shard_rows), shard_rows)
        yield f"| {shard_rows:,} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |"
    yield f"\nTo reach: {WANTED_ROWS / 1e6:.0f} million rows/s."


def stream_rates(folder: Path, shard_rows: int) -> list[float]:
    """Return million rows a second of the stream and of what it cannot do without."""
    cache = make_cache(folder, STREAM_ROWS, shard_rows, classes=2)
    columns = make_columns(cache.layout, shard_rows)
    while not cache.is_complete:
        commit_next(cache, columns)
    data = b"".join(encode_all(cache.layout, columns))
    reader = CacheReader(cache)
    count = len(reader.chunks)

    def stream() -> int:
        return sum(token.rows for token in islice(reader.stream_slices(CHUNK_ROWS, 0), count))

    ways: dict[str, Callable[[], object]] = {
        "stream": stream,
        "shards": lambda: [reader.read_shard(shard) for shard in reader.shards],
        "hashing": lambda: [hashlib.sha256(data) for _ in reader.shards],
        "copying": lambda: [bytearray(data) for _ in reader.shards],
    }
    rounds = [
        {name: timed(way, time.thread_time) for name, way in ways.items()}
        for _ in range(STREAM_ROUNDS)
    ]
    return [STREAM_ROWS / seconds / 1e6 for seconds in medians(rounds).values()]


def measure_claims(folder: Path) -> Iterator[str]:
    """Yield the table of what a worker spends between two shards."""
    yield "\n## Between two shards, all but one committed\n"
    yield "| shards | committed(), ms | claim_next(), ms |\n|---|---|---|"
    for shards in (1000, 10_000):
        cache = make_cache(folder / str(shards), shards, 1, classes=2, chunk_rows=1)
        names = [cache.place.path / record_path(shard) for shard in range(shards - 1)]
        names[0].parent.mkdir()
        for name in names:
            name.touch()  # only names matter here
        seconds = medians(
            [
                {"committed": timed(cache.committed), "claim": timed(lambda c=cache: claim_once(c))}
                for _ in range(11)
            ]
        )
        yield f"| {shards:,} | {1e3 * seconds['committed']:.2f} | {1e3 * seconds['claim']:.2f} |"


def claim_once(cache: Cache) -> None:
    """Claim the free shard and give it back."""
    claim = cache.claim_next()
    if claim is None:
        raise RuntimeError("no shard is free")
    claim.release()


def make_cache(
    root: Path, rows: int, shard_rows: int, classes: int, chunk_rows: int = CHUNK_ROWS
) -> Cache:
    """Create a cache as a teacher does that answers random inputs."""
    layout = Layout(rows, chunk_rows, shard_rows, answer_columns(classes))
    return create_or_open(root, Manifest("benchmark", {"model": "none"}, layout), dict)


def make_columns(layout: Layout, rows: int) -> Columns:
    """Return values that no file system can make smaller."""
    chance = np.random.default_rng(0)
    return {
        name: (
            chance.normal(size=(rows, *column.shape)).astype(column.dtype)
            if column.is_float
            else chance.integers(0, 2**31, (rows, *column.shape)).astype(column.dtype)
        )
        for name, column in layout.columns.items()
    }


def encode_all(layout: Layout, columns: Columns) -> list[bytes]:
    """Return the very bytes of a shard's files."""
    return [encode(layout, column, columns[name]) for name, column in layout.columns.items()]


def write_raw(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def time_sync(folder: Path) -> float:
    """Return the median seconds of getting one byte onto the disk."""
    times = [timed(lambda i=i: write_raw(folder / f"byte-{i}", b"x")) for i in range(25)]
    return statistics.median(times)


def count_syncs(folder: Path) -> int:
    """Return how often committing a shard that is not the cache's first calls fsync."""
    cache = make_cache(folder / "syncs", 2 * CHUNK_ROWS, CHUNK_ROWS, classes=2)
    columns = make_columns(cache.layout, CHUNK_ROWS)
    calls = 0
    for _ in range(2):
        with mock.patch("os.fsync", wraps=os.fsync) as spy:
            commit_next(cache, columns)
        calls = spy.call_count
    return calls


def commit_next(cache: Cache, columns: Columns) -> float:
    """Claim a shard, commit it, and return the seconds of the commit."""
    claim = cache.claim_next()
    if claim is None:
        raise RuntimeError("no shard is free")
    with claim:
        return timed(lambda: cache.commit(claim, columns, 1.0))


def timed(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that an action takes."""
    start = clock()
    action()
    return clock() - start


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each way over the rounds."""
    return {way: statistics.median(one[way] for one in rounds) for way in rounds[0]}


if __name__ == "__main__":
    main()
