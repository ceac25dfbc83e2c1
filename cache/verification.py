"""Every byte of a cache held against what manifest and commit records say, and repair after that.

Repair removes and computes nothing: a shard without its record is free for the teacher, and so is
a missing file of the cache as a whole.  Whatever was not damaged stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cache.checks import MISSING, Fault, check_file, check_manifest, check_shard, judge
from cache.directory import Cache
from cache.errors import ForeignError, LostClaimError, ManifestError, StorageError, VersionError
from cache.format import (
    ATTACHMENTS,
    DIRECTORY,
    GROUP,
    MANIFEST,
    MOST_SHARDS,
    Layout,
    committed_shards,
    object_path,
    record_path,
)
from cache.opening import read_manifest
from cache.removal import check_no_link, erase, remove_cache
from cache.stores import CLAIMS, TEMPORARY, Place, parse_place

__all__ = ["Fault", "Report", "remove_cache", "repair_cache", "verify_cache"]

_OBJECT = re.compile(rf"{GROUP}/([a-z][a-z0-9_]*)/c/(0|[1-9][0-9]*)(/0)*")


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        place: Where the cache lies.
        cache: The cache, None where its manifest cannot be read; no shard was checked then.
        committed: Commit records that are there.
        faults: All that is damaged: first what belongs to the cache as a whole, then by shard.
        strays: Files that belong to nothing, such as a killed writer's.  No reader looks at
            them, so they are no damage.
        bytes: Size of all files.
    """

    place: Place
    cache: Cache | None
    committed: int
    faults: tuple[Fault, ...]
    strays: tuple[str, ...]
    bytes: int = 0


def verify_cache(
    place: str | Path | Place, advance: Callable[[int], None] = lambda count: None
) -> Report:
    """Read every byte of a cache and hold it against manifest and commit records.

    Checked are the manifest, zarr's metadata, attachments, and of each committed shard its record,
    size, hash and structure of every column's file, and that floating values are finite.  The
    sums of single chunks are not recomputed: the hash of the whole file covers their bytes.
    Shards that are not committed are no damage, nor is what live processes are writing.

    One column of one shard is held at a time.  Nothing is written.

    Args:
        place: The cache, or its path or URL.
        advance: Told 1 for every committed shard that was read.

    Raises:
        VersionError: The cache is of another version of the format, of which nothing can be said.
        ManifestError: There is no cache.
        StorageError: The storage refuses; that is not taken for damage.
    """
    place = parse_place(place)
    files = place.open_files()
    fault = check_manifest(place, files)
    if fault is not None:
        records = committed_shards(files.names(DIRECTORY), MOST_SHARDS)
        if MANIFEST not in files.names() and not records:
            raise ManifestError(f"{place} is not a cache: it has no {MANIFEST}")
        size = sum(size for _, size in files.walk())
        return Report(place, None, len(records), (Fault(MANIFEST, fault, None),), (), size)
    cache = Cache(place, read_manifest(place))
    faults = []
    for path, info in cache.manifest.files.items():
        if (fault := check_file(files, path, info)) is not None:
            faults.append(Fault(path, fault, None))
    in_shards: list[Fault] = []
    count = 0
    for shard in cache.committed():
        found = check_shard(cache, shard)
        if found is not None:
            in_shards += found
            count += 1
        advance(1)
    obstacles, strays, size = _sort_files(cache)
    # What is in the way of others first: repair goes in this order.
    return Report(place, cache, count, (*obstacles, *faults, *in_shards), strays, size)


def repair_cache(report: Report) -> list[str]:
    """Remove what a verification found damaged, if it still is, for the teacher to make again.

    Of a damaged shard the commit record goes, and the files that were found changed; the rest of
    it means nothing without the record.

    Args:
        report: What :func:`verify_cache` returned.

    Returns:
        The paths removed, inside the cache.

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
    if any(fault.shard is None for fault in report.faults):
        with report.place.open_claims().creating() as is_mine:
            for fault in report.faults:
                if fault.shard is None:
                    removed += _repair_file(report.cache, fault, is_mine)
    for shard in sorted({fault.shard for fault in report.faults if fault.shard is not None}):
        removed += _repair_shard(report.cache, shard)
    return removed


def _sort_files(cache: Cache) -> tuple[list[Fault], tuple[str, ...], int]:
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
    if path.startswith(f"{DIRECTORY}/"):
        found = committed_shards([path.removeprefix(f"{DIRECTORY}/")], layout.shards)
        return found[0] if found else None
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


def _repair_manifest(place: Place) -> list[str]:
    with place.open_claims().creating() as is_mine:
        try:
            read_manifest(place)
        except (VersionError, ForeignError):
            raise
        except ManifestError:
            pass
        except StorageError as error:
            judge(error)
        else:
            return []
        files = place.open_files()
        there = MANIFEST in files.names()
        _check_right(place, is_mine)
        erase(place, files, MANIFEST)
        return [MANIFEST] if there else []


def _repair_file(cache: Cache, fault: Fault, is_mine: Callable[[], bool]) -> list[str]:
    info = cache.manifest.files.get(fault.file)
    if info is None:
        # Not through erase: should a directory be there by now, it is what must be there.
        check_no_link(cache.place, fault.file)
        _check_right(cache.place, is_mine)
        cache.files.remove(fault.file)
        return [fault.file]
    found = check_file(cache.files, fault.file, info)
    if found is None:
        return []
    _check_right(cache.place, is_mine)
    erase(cache.place, cache.files, fault.file)
    return [] if found == MISSING else [fault.file]


def _repair_shard(cache: Cache, shard: int) -> list[str]:
    # Under the shard's claim, so that nobody commits it between the last look and the removal.
    claims = cache.place.open_claims()
    claim = claims.take_first([shard], lambda shard: False)
    if claim is None:
        return []
    is_mine = partial(claim.is_held_in, claims)
    with claim:
        faults = check_shard(cache, shard)
        if not faults:
            return []
        removed = []
        # The record last: until it has gone, the shard is seen to be damaged.
        for fault in sorted(faults, key=lambda fault: fault.file == record_path(shard)):
            if fault.file != record_path(shard):
                _check_right(cache.place, is_mine)
                erase(cache.place, cache.files, fault.file)
                removed += [] if fault.fault == MISSING else [fault.file]
        _check_right(cache.place, is_mine)
        erase(cache.place, cache.files, record_path(shard))
        return [*removed, record_path(shard)]


def _check_right(place: Place, is_mine: Callable[[], bool]) -> None:
    # Suspended for long, this may wake up beside someone who has made the thing anew.
    if not is_mine():
        raise LostClaimError(
            f"{place} was repaired in part only: this process was suspended, or cut off from it, "
            "until its right to do so lapsed; run the same command again"
        )
