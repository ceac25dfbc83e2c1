"""Every byte of a cache held against what manifest and commit records say, and repair after that.

Repair removes and computes nothing: a shard without its record is free for the teacher, and so is
a missing file of the cache as a whole.  Whatever was not damaged stays as it was.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cache.directory import MISSING, Cache, attempt, first_non_finite
from cache.errors import ForeignError, ManifestError, StorageError
from cache.format import (
    ATTACHMENTS,
    DIRECTORY,
    GROUP,
    MANIFEST,
    CommitRecord,
    committed_shards,
    record_path,
)
from cache.opening import read_manifest
from cache.removal import erase
from cache.stores import CLAIMS, TEMPORARY, Place, parse_place


@dataclass(frozen=True)
class Fault:
    """One damaged file, by its path inside the cache; its shard is None where it has none."""

    file: str
    fault: str
    shard: int | None


@dataclass(frozen=True)
class Report:
    """What a verification found."""

    place: Place
    cache: Cache | None  # None where its manifest cannot be read, and no shard was checked
    committed: int  # commit records that are there
    faults: tuple[Fault, ...]  # first of what belongs to the cache as a whole, then by shard
    strays: tuple[str, ...]  # no damage: files that no reader looks at, such as a killed writer's
    bytes: int = 0  # of all files


def verify_cache(
    place: str | Path | Place, advance: Callable[[int], None] = lambda count: None
) -> Report:
    """Read every byte of a cache and hold it against manifest and commit records.

    Checked are the manifest, zarr's metadata, attachments, and of each committed shard its record,
    size, hash and structure of every column's file, and that floating values are finite.  Shards
    that are not committed are no damage, nor is what live processes are writing.  Nothing is
    written.  ``advance`` is told of every committed shard that was read.

    VersionError: the cache is of another version of the format; ManifestError: there is none;
    StorageError: the storage refuses, which is not taken for damage.
    """
    place = parse_place(place)
    files = place.open_files()
    try:
        manifest = attempt(partial(read_manifest, place))
    except ManifestError as error:
        records = files.names(DIRECTORY)
        if MANIFEST in files.names():
            manifest = str(error).removeprefix(f"{place}/{MANIFEST} ").removeprefix(f"{place} ")
        elif committed_shards(records):
            manifest = MISSING
        else:
            raise
    if isinstance(manifest, str):
        count = len(committed_shards(files.names(DIRECTORY)))
        size = sum(size for _, size in files.walk())
        return Report(place, None, count, (Fault(MANIFEST, manifest, None),), (), size)
    cache = Cache(place, manifest)
    faults = [
        Fault(path, fault, None)
        for path in cache.manifest.files
        if (fault := _check_file(cache, path)) is not None
    ]
    count = 0
    for shard in cache.committed():
        found = _check_shard(cache, shard)
        if found is not None:
            faults += found
            count += 1
        advance(1)
    obstacles, strays, size = _sort_files(cache)
    # What is in the way of others first: repair goes in this order.
    return Report(place, cache, count, (*obstacles, *faults), strays, size)


def repair_cache(report: Report) -> list[str]:
    """Remove what :func:`verify_cache` found damaged, if it still is, and return the paths.

    Of a damaged shard the changed files go, and the record, without which the rest is nothing.

    Raises:
        ForeignError: The manifest is a sound one of another cache: whether manifest or directory
            is in the wrong place is for a person to judge.
        VersionError: The manifest has come to be of another version of the format.
        ClaimError: A stopped process is in the way.
        LostClaimError: The right to repair was lost on the way; what was removed is not redone.
        StorageError: The storage refuses.
    """
    if report.cache is None:
        return _repair_manifest(report.place)
    removed = []
    common = [fault.file for fault in report.faults if fault.shard is None]
    if common:
        with report.place.open_claims().creating() as is_mine:
            for path in common:
                removed += _repair_file(report.cache, path, is_mine)
    for shard in sorted({fault.shard for fault in report.faults if fault.shard is not None}):
        removed += _repair_shard(report.cache, shard)
    return removed


def _check_file(cache: Cache, path: str) -> str | None:
    found = attempt(lambda: cache.read_checked(path, cache.manifest.files[path]))
    return found if isinstance(found, str) else None


def _check_shard(cache: Cache, shard: int) -> list[Fault] | None:
    # None if it is not committed (any more).
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


def _sort_files(cache: Cache) -> tuple[list[Fault], tuple[str, ...], int]:
    # Files that stand where a directory must be, strays, and the size of all files.
    committed = set(cache.committed())
    obstacles, loose, size = [], [], 0
    for path, file_size in cache.files.walk():
        size += file_size
        if path == MANIFEST or path in cache.manifest.files or path.startswith(f"{CLAIMS}/"):
            continue
        # Whose record or column lies there, None where that is nobody's place.
        owners = (each for each in _numbers(path, cache) if path in cache.paths_of(each))
        shard = next(owners, None)
        if shard is not None and (shard in committed or path == record_path(shard)):
            continue
        if shard is None and _is_in_the_way(path, cache):
            obstacles.append(Fault(path, "a file where a directory must be", None))
        else:
            loose.append((path, shard))
    try:
        live = {claim.shard for claim in cache.live_claims()} if loose else set()
    except StorageError:
        live = set()  # nothing can be locked here, so nobody writes here either
    # In this order: a writer that was done in between is no longer live, but its shard is there.
    busy = live | set(cache.committed())
    strays = []
    for path, shard in loose:
        mine = live if path.startswith(f"{TEMPORARY}/") else shard in busy
        # What has a backslash is nobody's, and no path that could be asked for.
        if not mine and ("\\" in path or cache.files.size(path) is not None):
            strays.append(path)
    return obstacles, tuple(sorted(strays)), size


def _is_in_the_way(path: str, cache: Cache) -> bool:
    if path in (GROUP, DIRECTORY, CLAIMS, TEMPORARY, ATTACHMENTS.rstrip("/")):
        return True
    below = (each for shard in _numbers(path, cache) for each in cache.paths_of(shard))
    return any(each.startswith(f"{path}/") for each in below)


def _numbers(path: str, cache: Cache) -> list[int]:
    # The shards that a path may be of, by the numbers in it; the first, if it is above them all.
    found = [int(digits) for digits in re.findall(r"[0-9]{1,7}", path)]
    return [0, *(shard for shard in found if shard < cache.shards)]


def _repair_manifest(place: Place) -> list[str]:
    with place.open_claims().creating() as is_mine:
        try:
            if not isinstance(attempt(partial(read_manifest, place)), str):
                return []
        except ForeignError:
            raise
        except ManifestError:
            pass
        files = place.open_files()
        there = MANIFEST in files.names()
        erase(place, files, MANIFEST, is_mine)
        return [MANIFEST] if there else []


def _repair_file(cache: Cache, path: str, is_mine: Callable[[], bool]) -> list[str]:
    if path not in cache.manifest.files:
        if cache.files.size(path) is None:
            return []  # it is gone, or the directory by now that must be there
        erase(cache.place, cache.files, path, is_mine)
        return [path]
    fault = _check_file(cache, path)
    if fault is not None:
        erase(cache.place, cache.files, path, is_mine)
    return [path] if fault not in (None, MISSING) else []


def _repair_shard(cache: Cache, shard: int) -> list[str]:
    # Under the shard's claim, so that nobody commits it between the last look and the removal.
    claims = cache.place.open_claims()
    claim = claims.take_first([shard], lambda shard: False)
    if claim is None:
        return []
    with claim:
        faults = {fault.file: fault.fault for fault in _check_shard(cache, shard) or ()}
        if not faults:
            return []
        # The record last: until it has gone, the shard is seen to be damaged.
        faults.pop(record_path(shard), None)
        for path in (*faults, record_path(shard)):
            erase(cache.place, cache.files, path, partial(claim.is_held_in, claims))
        removed = [path for path, fault in faults.items() if fault != MISSING]
        return [*removed, record_path(shard)]
