"""Single checks of a cache: what is wrong with a file, with a shard, and what belongs to nothing.

What is wrong with a file is told apart from a storage that cannot be used at the moment: the one
is returned as text, the other raised, and nothing is ever removed for it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cache.directory import MISSING, Cache, first_non_finite
from cache.errors import DamageError, StorageError
from cache.format import (
    ATTACHMENTS,
    DIRECTORY,
    GROUP,
    MANIFEST,
    CommitRecord,
    Layout,
    committed_shards,
    object_path,
    record_path,
)
from cache.stores import CLAIMS, TEMPORARY

T = TypeVar("T")

_OBJECT = re.compile(rf"{GROUP}/([a-z][a-z0-9_]*)/c/(0|[1-9][0-9]*)(/0)*")
_UNREADABLE = (errno.EISDIR, errno.ELOOP, errno.EIO, errno.ENXIO)
"""What is wrong with the file itself; anything else may pass."""


@dataclass(frozen=True)
class Fault:
    """One damaged thing.

    Attributes:
        file: Its path inside the cache, with forward slashes.
        fault: What is wrong with it.
        shard: The shard that it belongs to, None where it is the cache's as a whole.
    """

    file: str
    fault: str
    shard: int | None


def attempt(check: Callable[[], T]) -> T | str:
    """Return what a check of a file returns or, as text, what is wrong with the file.

    Raises:
        StorageError: What is wrong may be the storage's.
    """
    try:
        return check()
    except DamageError as error:
        return error.fault
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _UNREADABLE:
            raise
        return f"cannot be read ({cause.strerror})"


def check_file(cache: Cache, path: str) -> str | None:
    """Return what is wrong with a file that the manifest names, or None if nothing is.

    Raises:
        StorageError: The storage refuses.
    """
    found = attempt(lambda: cache.read_checked(path, cache.manifest.files[path]))
    return found if isinstance(found, str) else None


def check_shard(cache: Cache, shard: int) -> list[Fault] | None:
    """Return the faults of a shard, or None if it is not committed (any more).

    Raises:
        StorageError: The storage refuses.
    """
    read_record = partial(cache.record, shard)
    while True:
        record = attempt(read_record)
        if record == MISSING and shard not in cache.committed():
            return None
        found = {record_path(shard): record if isinstance(record, str) else None}
        for name in cache.layout.columns:
            found[cache.column_path(shard, name)] = attempt(
                partial(_check_column, cache, shard, name, record)
            )
        # If someone repaired it meanwhile, old record and new files were compared.
        if not any(found.values()) or attempt(read_record) == record:
            return [Fault(path, fault, shard) for path, fault in found.items() if fault]


def _check_column(cache: Cache, shard: int, name: str, record: CommitRecord | str) -> str | None:
    if isinstance(record, str):
        # Nothing can be said of the file but whether it is there.
        return MISSING if cache.files.read(cache.column_path(shard, name), 0) is None else None
    bad = first_non_finite(cache.read_column(record, name))
    return None if bad is None else f"row {record.rows[0] + bad} is NaN or infinite"


def sort_files(cache: Cache) -> tuple[list[Fault], tuple[str, ...], int]:
    """Return files that stand where a directory must be, strays, and the size of all files."""
    committed = set(cache.committed())
    obstacles, loose, size = [], [], 0
    for path, file_size in cache.files.walk():
        size += file_size
        if path == MANIFEST or path in cache.manifest.files or path.startswith(f"{CLAIMS}/"):
            continue
        shard = _shard_of(path, cache.layout)
        if shard is not None and (shard in committed or path == record_path(shard)):
            continue
        if shard is None and _is_in_the_way(path, cache.layout):
            obstacles.append(Fault(path, "a file where a directory must be", None))
        else:
            loose.append((path, shard))
    return obstacles, _find_strays(cache, loose), size


def _find_strays(cache: Cache, loose: list[tuple[str, int | None]]) -> tuple[str, ...]:
    if not loose:
        return ()
    try:
        live = {claim.shard for claim in cache.live_claims()}
    except StorageError:
        live = set()  # nothing can be locked here, so nobody writes here either
    # In this order: a writer that was done in between is no longer live, but its shard is there.
    busy = live | set(cache.committed())
    strays = []
    for path, shard in loose:
        mine = live if path.startswith(f"{TEMPORARY}/") else shard in busy
        if not mine and cache.files.size(path) is not None:
            strays.append(path)
    return tuple(sorted(strays))


def _shard_of(path: str, layout: Layout) -> int | None:
    """Return the shard whose record or column lies there, None where that is nobody's place."""
    folder, _, name = path.rpartition("/")
    if folder == DIRECTORY:
        return next(iter(committed_shards([name], layout.shards)), None)
    match = _OBJECT.fullmatch(path)
    if match is None or match[1] not in layout.columns or int(match[2]) >= layout.shards:
        return None
    shard = int(match[2])
    return shard if path == object_path(match[1], layout.columns[match[1]], shard) else None


def _is_in_the_way(path: str, layout: Layout) -> bool:
    if path in (GROUP, DIRECTORY, CLAIMS, TEMPORARY, ATTACHMENTS.rstrip("/")):
        return True
    match = _OBJECT.fullmatch(path)
    shard = int(match[2]) if match else 0
    return shard < layout.shards and any(
        object_path(name, column, shard).startswith(f"{path}/")
        for name, column in layout.columns.items()
    )
