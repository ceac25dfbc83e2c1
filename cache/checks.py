"""Single checks of a cache: what is wrong with a manifest, a file, a shard.

What is wrong with a file is told apart from a storage that cannot be used at the moment: the one
is said in words, the other raised, and nothing is ever removed for it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cache.directory import Cache
from cache.errors import ManifestError, StorageError, VersionError
from cache.format import (
    LARGEST_RECORD,
    MANIFEST,
    CommitRecord,
    DocumentError,
    FileInfo,
    decode,
    object_path,
    record_path,
)
from cache.opening import read_manifest
from cache.stores import Files, Place

MISSING = "missing"

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


def check_manifest(place: Place, files: Files) -> str | None:
    """Return what is wrong with a manifest, its directory's name too, or None if nothing is.

    Raises:
        VersionError: It is of another version of the format.
        StorageError: The storage refuses.
    """
    try:
        read_manifest(place)
    except VersionError:
        raise
    except ManifestError as error:
        if MANIFEST not in files.names():
            return MISSING
        return str(error).removeprefix(f"{place}/{MANIFEST} ").removeprefix(f"{place} ")
    except StorageError as error:
        return judge(error)
    return None


def check_file(files: Files, path: str, info: FileInfo) -> str | None:
    """Return what is wrong with a file, or None if nothing is.

    Raises:
        StorageError: The storage refuses.
    """
    data, fault = _read(files, path, info.size)
    return fault or info.fault(data)


def check_shard(cache: Cache, shard: int) -> list[Fault] | None:
    """Return the faults of a shard, or None if it is not committed (any more).

    Raises:
        StorageError: The storage refuses.
    """
    path = record_path(shard)
    while True:
        before = _read(cache.files, path, LARGEST_RECORD)
        if before == (None, None) and shard not in cache.committed():
            return None
        faults = list(_find_faults(cache, shard, *before))
        # If someone repaired it meanwhile, old record and new files were compared.
        if not faults or _read(cache.files, path, LARGEST_RECORD) == before:
            return faults


def _find_faults(
    cache: Cache, shard: int, data: bytes | None, fault: str | None
) -> Iterator[Fault]:
    record = None
    if data is None:
        yield Fault(record_path(shard), fault or MISSING, shard)
    else:
        try:
            record = CommitRecord.from_bytes(data, cache.layout, cache.fingerprint, shard)
        except DocumentError as error:
            yield Fault(record_path(shard), str(error), shard)
    for name, column in cache.layout.columns.items():
        path = object_path(name, column, shard)
        if record is not None:
            found = _check_column(cache, shard, name, record.files[path])
        else:
            found = _check_presence(cache.files, path)
        if found is not None:
            yield Fault(path, found, shard)


def _check_column(cache: Cache, shard: int, name: str, info: FileInfo) -> str | None:
    column, rows = cache.layout.columns[name], cache.rows_of(shard)
    data, fault = _read(cache.files, object_path(name, column, shard), info.size)
    fault = fault or info.fault(data)
    if fault is not None or data is None:
        return fault
    try:
        values = decode(cache.layout, column, data, len(rows))
    except ValueError as error:
        return str(error)
    if column.is_float:
        finite = np.isfinite(values).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            return f"row {rows.start + int(np.argmin(finite))} is NaN or infinite"
    return None


def _check_presence(files: Files, path: str) -> str | None:
    data, fault = _read(files, path, 0)
    return fault if fault or data is not None else MISSING


def _read(files: Files, path: str, limit: int) -> tuple[bytes | None, str | None]:
    """Return the bytes of a file, or None and perhaps why it cannot be read."""
    try:
        return files.read(path, limit), None
    except StorageError as error:
        return None, judge(error)


def judge(error: StorageError) -> str:
    """Return what is wrong with a file, or raise the error where it may be the storage's.

    Raises:
        StorageError: The very error.
    """
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno not in _UNREADABLE:
        raise error
    return f"cannot be read ({cause.strerror})"
