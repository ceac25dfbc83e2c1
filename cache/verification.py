"""Every byte of a cache held against what manifest and commit records say, and repair after that.

Repair removes and computes nothing: a shard without its record is free for the teacher, and so is
a missing file of the cache as a whole.  Whatever was not damaged stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cache.checks import Fault, attempt, check_file, check_shard, sort_files
from cache.directory import MISSING, Cache
from cache.errors import ForeignError, LostClaimError, ManifestError, VersionError
from cache.format import DIRECTORY, MANIFEST, MOST_SHARDS, committed_shards, record_path
from cache.opening import read_manifest
from cache.removal import check_no_link, erase
from cache.stores import Place, parse_place


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
    try:
        manifest = attempt(partial(read_manifest, place))
    except VersionError:
        raise
    except ManifestError as error:
        records = files.names(DIRECTORY)
        if MANIFEST in files.names():
            manifest = str(error).removeprefix(f"{place}/{MANIFEST} ").removeprefix(f"{place} ")
        elif committed_shards(records, MOST_SHARDS):
            manifest = MISSING
        else:
            raise
    if isinstance(manifest, str):
        count = len(committed_shards(files.names(DIRECTORY), MOST_SHARDS))
        size = sum(size for _, size in files.walk())
        return Report(place, None, count, (Fault(MANIFEST, manifest, None),), (), size)
    cache = Cache(place, manifest)
    faults = [
        Fault(path, fault, None)
        for path in cache.manifest.files
        if (fault := check_file(cache, path)) is not None
    ]
    count = 0
    for shard in cache.committed():
        found = check_shard(cache, shard)
        if found is not None:
            faults += found
            count += 1
        advance(1)
    obstacles, strays, size = sort_files(cache)
    # What is in the way of others first: repair goes in this order.
    return Report(place, cache, count, (*obstacles, *faults), strays, size)


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
    common = [fault.file for fault in report.faults if fault.shard is None]
    if common:
        with report.place.open_claims().creating() as is_mine:
            for path in common:
                removed += _repair_file(report.cache, path, is_mine)
    for shard in sorted({fault.shard for fault in report.faults if fault.shard is not None}):
        removed += _repair_shard(report.cache, shard)
    return removed


def _repair_manifest(place: Place) -> list[str]:
    with place.open_claims().creating() as is_mine:
        try:
            if not isinstance(attempt(partial(read_manifest, place)), str):
                return []
        except (VersionError, ForeignError):
            raise
        except ManifestError:
            pass
        files = place.open_files()
        there = MANIFEST in files.names()
        _check_right(place, is_mine)
        erase(place, files, MANIFEST)
        return [MANIFEST] if there else []


def _repair_file(cache: Cache, path: str, is_mine: Callable[[], bool]) -> list[str]:
    if path not in cache.manifest.files:
        # Not through erase: should a directory be there by now, it is what must be there.
        check_no_link(cache.place, path)
        _check_right(cache.place, is_mine)
        cache.files.remove(path)
        return [path]
    fault = check_file(cache, path)
    if fault is not None:
        _check_right(cache.place, is_mine)
        erase(cache.place, cache.files, path)
    return [path] if fault not in (None, MISSING) else []


def _repair_shard(cache: Cache, shard: int) -> list[str]:
    # Under the shard's claim, so that nobody commits it between the last look and the removal.
    claims = cache.place.open_claims()
    claim = claims.take_first([shard], lambda shard: False)
    if claim is None:
        return []
    with claim:
        faults = {fault.file: fault.fault for fault in check_shard(cache, shard) or ()}
        if not faults:
            return []
        # The record last: until it has gone, the shard is seen to be damaged.
        faults.pop(record_path(shard), None)
        for path in (*faults, record_path(shard)):
            _check_right(cache.place, partial(claim.is_held_in, claims))
            erase(cache.place, cache.files, path)
        removed = [path for path, fault in faults.items() if fault != MISSING]
        return [*removed, record_path(shard)]


def _check_right(place: Place, is_mine: Callable[[], bool]) -> None:
    # Suspended for long, this may wake up when someone else has made the thing anew.
    if not is_mine():
        raise LostClaimError.lapsed(place, "repaired in part only")
