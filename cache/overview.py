"""What there is to know about one cache: how far it is, how fast, who is on it, what it holds."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from cache.directory import Cache
from cache.errors import CacheError, DamageError
from cache.format import CommitRecord
from cache.reader import CacheReader


def describe_cache(
    cache: Cache, advance: Callable[[int], None], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Read all of a cache and say what it holds, as JSON can; ``advance`` may raise to stop.

    None is what cannot be told.  ``committed`` counts the sound shards and ``rows`` theirs,
    ``row_bytes`` are those of each in its shard's files, ``bytes`` those of all files, ``rate`` is
    that of one worker in rows a second, ``seconds_left`` what the live workers need for the rest,
    ``balance`` for each class the rows in which it is the most probable and its mean probability.
    """
    damage: list[str] = []
    records: list[CommitRecord] = []
    column = cache.layout.columns.get("probabilities")
    classes = column.shape[0] if column and len(column.shape) == 1 else 0
    votes, sums = np.zeros(classes, np.int64), np.zeros(classes)

    @contextmanager
    def noting_damage() -> Iterator[None]:
        try:
            yield
        except DamageError as error:
            damage.append(str(error))

    with noting_damage():
        cache.check_metadata()
    for name in cache.manifest.attachments:
        with noting_damage():
            cache.read_attachment(name)
    committed = cache.committed()
    reader = None if damage or not committed else CacheReader(cache, partial=True)
    for shard in committed:
        with noting_damage():
            record = cache.record(shard)
            columns = reader.read_shard(shard) if reader is not None else {}
            if columns and classes:
                g = columns["probabilities"]
                votes += np.bincount(g.argmax(axis=1), minlength=classes)
                sums += g.sum(axis=0, dtype=np.float64)
            records.append(record)
        advance(1)
    try:
        workers = [asdict(worker) for worker in cache.live_claims()]
    except CacheError as error:
        warn(f"who works on it cannot be told: {error}")
        workers = None
    rows = sum(len(cache.rows_of(record.shard)) for record in records)
    data = sum(info.size for record in records for info in record.files.values())
    spent = sum(record.seconds for record in records)
    left, seconds_left = cache.layout.rows - rows, None
    if workers and rows and left and math.isfinite(spent):
        seconds_left = left * spent / rows / len(workers)
    voters = int(votes.sum())
    means = (sums / max(voters, 1)).tolist()
    shares = zip(_name_classes(cache, classes), votes.tolist(), means, strict=True)
    return {
        "fingerprint": cache.fingerprint,
        "label": cache.manifest.label,
        "path": str(cache.place),
        "created": cache.manifest.created,
        "inputs": cache.manifest.inputs,
        "notes": cache.manifest.notes,
        "layout": asdict(cache.layout),
        "shards": cache.shards,
        "complete": len(records) == cache.shards,
        "committed": len(records),
        "rows": rows,
        "rate": rows / spent if spent else None,
        "seconds_left": seconds_left,
        "bytes": sum(size for _, size in cache.files.walk()),
        "row_bytes": data / rows if rows else None,
        "damage": damage,
        "workers": workers,
        "balance": {
            name: {"rows": count, "probability": mean} for name, count, mean in shares if voters
        },
    }


def _name_classes(cache: Cache, classes: int) -> list[str]:
    try:
        names = [str(label["name"]) for label in cache.manifest.inputs["task"]["labels"]]
    except (KeyError, TypeError):
        names = []
    return names if len(names) == classes else [f"class {index}" for index in range(classes)]
