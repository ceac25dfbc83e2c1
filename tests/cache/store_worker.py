"""Small caches, the rows that belong into them, and what tests do to their files."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.directory import Cache
from cache.format.layout import Layout, answer_columns
from cache.format.manifest import Manifest
from cache.opening import create_or_open, open_cache, summarise
from cache.reader import CacheReader
from cache.stores import Place, parse_place

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
    return create_or_open(root, make_manifest(**settings), lambda kept: ATTACHMENTS)


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


def list_caches(root: Path | Place) -> list[dict[str, Any]]:
    return [summarise(place) for place in parse_place(root).list_places()]


def inside(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
