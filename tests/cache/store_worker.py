"""A writer of small caches: run as a process by tests that kill it, imported for its rows.

Arguments: ROOT PAUSE [SHARD].  Prints "ready" once the cache is open, waits for a line on standard
input, then fills the cache, pausing inside every claim; prints each shard committed.  With SHARD it
stops dead inside that claim, as an orphan does that hangs.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.directory import Cache
from cache.format.layout import Layout, answer_columns
from cache.format.manifest import Manifest
from cache.opening import create_or_open, open_cache
from cache.reader import CacheReader

SMALL = {"rows": 12, "chunk_rows": 4, "shard_rows": 8, "tokens": 3}
ATTACHMENTS = {"table.bin": bytes(range(256)), "words.json": b'{"a": 1}'}


def make_manifest(
    rows: int = 300,
    chunk_rows: int = 8,
    shard_rows: int = 32,
    tokens: int | None = 5,
    seed: int = 0,
) -> Manifest:
    layout = Layout(rows, chunk_rows, shard_rows, answer_columns(2, tokens))
    return Manifest("test", {"model": "m", "run": {"seed": seed, "bos": None}}, layout)


def make_columns(cache: Cache, shard: int) -> dict[str, npt.NDArray[Any]]:
    """Rows that follow from their own index, as a teacher's do."""
    rows = np.arange(cache.rows_of(shard).start, cache.rows_of(shard).stop)
    logits = np.stack([np.sin(rows + k) for k in range(2)], 1).astype(np.float32)
    columns = {
        "seed": rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        "length": (rows // cache.layout.chunk_rows % 7 + 1).astype(np.int32),
        "logits": logits,
        "probabilities": np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
    }
    if "tokens" in cache.layout.columns:
        width = cache.layout.columns["tokens"].shape[0]
        columns["tokens"] = (rows[:, None] * 31 + np.arange(width)).astype(np.int32)
    return columns


def make_cache(root: Path | str, **settings: Any) -> Cache:
    return create_or_open(root, make_manifest(**settings), lambda: ATTACHMENTS)


def fill(cache: Cache, most: int | None = None) -> None:
    """Commit free shards, at most so many."""
    count = 0
    while most is None or count < most:
        claim = cache.claim_next()
        if claim is None:
            return
        with claim:
            cache.commit(claim, make_columns(cache, claim.shard), 0.5)
        count += 1


def tree(cache: Path) -> dict[str, bytes]:
    """All files whose bytes are a function of the settings."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for part in ("rows", "attachments")
        for path in sorted((cache / part).rglob("*"))
        if path.is_file()
    }


def read_everything(root: Path, fingerprint: str | None = None) -> None:
    cache = open_cache(root, fingerprint)
    reader = CacheReader(cache)
    for shard in reader.shards:
        reader.read_shard(shard)
    for name in cache.manifest.attachments:
        cache.read_attachment(name)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def inside(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def main() -> None:
    cache = make_cache(sys.argv[1])
    stop = int(sys.argv[3]) if len(sys.argv) > 3 else -1
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    while not cache.is_complete:
        claim = cache.claim_next()
        if claim is None:
            time.sleep(0.01)
            continue
        with claim:
            if claim.shard == stop:
                print("hanging", flush=True)  # noqa: T201
                time.sleep(600)
            time.sleep(float(sys.argv[2]))
            cache.commit(claim, make_columns(cache, claim.shard), 0.5)
            print(claim.shard, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
