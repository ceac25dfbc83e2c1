"""What safety costs: ``python -m benchmarks.storage [--folder DIR] [--out benchmarks/storage.md]``.

Shards written and read by the cache, and beside them in the same run the raw disk and plain
``np.save`` and ``np.load`` of the same values; bytes a row; rows a second of a shuffled stream on
one core, under what hashing and copying alone would allow.  Ways take turns and medians are shown;
times are those of the clock, except the stream's, which is processor time.  Reads come from the
page cache.
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
from cache.format import Layout, Manifest, answer_columns, encode, object_path
from cache.opening import create_or_open
from cache.reader import CacheReader

Columns = dict[str, npt.NDArray[Any]]

CHUNK_ROWS = 64
CLASSES = (2, 4, 28)
ROUNDS = {4096: 24, 65536: 8}
"""Shards of each size."""
WRITES = ("× raw disk", "× np.save, synced")
READS = ("× raw read", "× SHA-256 alone", "× np.load")
STREAM_ROWS, STREAM_ROUNDS = 2**18, 9
STREAM_CHUNKS = STREAM_ROWS // CHUNK_ROWS


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
        }
        command = ["benchmarks.storage", *sys.argv[1:]]
        run_sections("What safety costs", command, sections, options.out)


def compare_shards(folder: Path) -> Iterator[str]:
    """Yield the tables of writing, reading and sizes."""
    sizes: dict[int, list[str]] = {}
    reading = [format_head(("rows", "classes", "read_shard, ms", *READS))]
    yield format_head(("rows", "classes", "MB", "commit, ms", *WRITES))
    for rows, rounds in ROUNDS.items():
        for classes in CLASSES:
            place = folder / f"{rows}-{classes}"
            cache = make_cache(place, rows * rounds, rows, classes)
            columns = make_columns(cache.layout, rows)
            data = encode_all(cache.layout, columns)
            own, *others = measure_writes(cache, columns, data, place)
            ratios = [f"{own / other:.1f}" for other in others]
            head = (f"{rows:,}", classes)
            yield format_row((*head, f"{len(data) / 1e6:.2f}", f"{1e3 * own:.1f}", *ratios))
            whole = sum(size for _, size in cache.files.walk())
            sizes.setdefault(classes, []).append(f"{whole / cache.layout.rows:.2f}")
            own, *others = measure_reads(cache, data, place)
            ratios = [f"{own / other:.1f}" for other in others]
            reading.append(format_row((*head, f"{1e3 * own:.2f}", *ratios)))
    yield "\n" + "\n".join(reading)
    yield "\nBytes a row, every file of the cache counted:\n"
    yield format_head(("classes", "values alone", *(f"shards of {rows:,} rows" for rows in ROUNDS)))
    for classes, found in sizes.items():
        values = sum(column.row_bytes for column in answer_columns(classes).values())
        yield format_row((classes, values, *found))


def measure_writes(cache: Cache, columns: Columns, data: bytes, place: Path) -> list[float]:
    """Write every shard in all ways; return the median seconds of a commit and of WRITES."""
    rounds = []
    for turn in range(cache.shards):
        os.sync()  # what np.save has left behind is not the next commit's to write
        folder = place / f"plain-{turn}"
        folder.mkdir()
        commit = commit_next(cache, columns)
        raw = timed(partial(write, folder / "raw", lambda file: file.write(data)))
        plain = [
            partial(write, folder / name, lambda file, values=values: np.save(file, values))
            for name, values in columns.items()
        ]
        rounds.append([commit, raw, sum(map(timed, plain))])
    return medians(rounds)


def measure_reads(cache: Cache, data: bytes, place: Path) -> list[float]:
    """Read every shard in all ways; return the median seconds of read_shard and of READS."""
    rounds = []
    for shard in 3 * list(range(cache.shards)):
        columns = cache.layout.columns
        files = [cache.place.path / object_path(*item, shard) for item in columns.items()]
        plain = [place / f"plain-{shard}" / name for name in columns]
        reader = CacheReader(cache)
        ways = (
            lambda reader=reader, shard=shard: reader.read_shard(shard),
            lambda files=files: [path.read_bytes() for path in files],
            lambda: hashlib.sha256(data).digest(),
            lambda plain=plain: [np.load(path) for path in plain],
        )
        rounds.append([timed(way) for way in ways])
    return medians(rounds)


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

        ways = (
            lambda reader=reader: sum(
                chunk.rows for chunk in islice(reader.stream_slices(CHUNK_ROWS, 0), STREAM_CHUNKS)
            ),
            lambda reader=reader: [reader.read_shard(shard) for shard in reader.shards],
            lambda reader=reader, data=data: [hashlib.sha256(data) for _ in reader.shards],
            lambda reader=reader, data=data: [bytearray(data) for _ in reader.shards],
        )
        rounds = [[timed(way, time.thread_time) for way in ways] for _ in range(STREAM_ROUNDS)]
        rates = [f"{STREAM_ROWS / seconds / 1e6:.1f}" for seconds in medians(rounds)]
        yield format_row((f"{shard_rows:,}", *rates))
    yield "\nTo reach: 2 million rows/s."


def make_cache(root: Path, rows: int, shard_rows: int, classes: int) -> Cache:
    """Create a cache as a teacher does that answers random inputs."""
    layout = Layout(rows, min(CHUNK_ROWS, shard_rows), shard_rows, answer_columns(classes))
    return create_or_open(root, Manifest("benchmark", {"model": "none"}, layout), dict)


def make_columns(layout: Layout, rows: int) -> Columns:
    """Return values that no file system can make smaller."""
    generator = np.random.default_rng(0)
    return {
        name: (2**20 * generator.random((rows, *column.shape))).astype(column.dtype)
        for name, column in layout.columns.items()
    }


def encode_all(layout: Layout, columns: Columns) -> bytes:
    """Return the very bytes of a shard's files."""
    parts = (encode(layout, column, columns[name]) for name, column in layout.columns.items())
    return b"".join(parts)


def write(path: Path, fill: Callable[[Any], object]) -> None:
    """Write a file, and wait until the disk has it."""
    with path.open("xb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())


def commit_next(cache: Cache, columns: Columns) -> float:
    """Claim a shard, commit it, and return the seconds of the commit."""
    claim = cache.claim_next()
    if claim is None:
        raise RuntimeError("no shard is free")
    with claim:
        return timed(lambda: cache.commit(claim, columns, 1.0))


def medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of each way over the rounds."""
    return [statistics.median(way) for way in zip(*rounds, strict=True)]


if __name__ == "__main__":
    main()
