"""Caches below a root directory: made at most once each, opened with a check, and listed.

Everything that a caller needs is imported from here; :mod:`cache.reader` reads the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cache.commits import DIRECTORY
from cache.directory import Cache, damage
from cache.errors import CacheError, ForeignError, ManifestError
from cache.files import TEMPORARY
from cache.layout import Column, Layout, answer_columns
from cache.manifest import (
    ATTACHMENTS,
    LARGEST_MANIFEST,
    MANIFEST,
    FileInfo,
    Manifest,
    check_attachment_name,
)
from cache.places import Place, parse_place
from cache.shards import GROUP, metadata
from cache.storage import Claim, Files, LiveClaim

__all__ = [
    "Cache",
    "CacheSummary",
    "Claim",
    "Column",
    "Layout",
    "LiveClaim",
    "Manifest",
    "answer_columns",
    "create_or_open",
    "list_caches",
    "open_cache",
]


@dataclass(frozen=True)
class CacheSummary:
    """One directory below a root, cache or not.

    Attributes:
        place: The directory.
        manifest: Its manifest, or None where that cannot be read.
        committed: Number of committed shards.
        bytes: Size of all files.
        newest: When the last shard was committed, None before the first.
        error: What is wrong with it, None where nothing is that reading manifest and commit
            records can tell.
    """

    place: Place
    manifest: Manifest | None
    committed: int
    bytes: int
    newest: datetime | None
    error: str | None

    @property
    def shards(self) -> int:
        """Number of shards that there are to be, 0 where the manifest cannot be read."""
        return self.manifest.layout.shards if self.manifest else 0

    @property
    def is_complete(self) -> bool:
        """Whether the manifest and every commit record are there and sound."""
        return self.error is None and self.committed == self.shards


def create_or_open(
    root: str | Path | Place, manifest: Manifest, attachments: Callable[[], Mapping[str, bytes]]
) -> Cache:
    """Open the cache of a manifest, creating it where it does not exist yet.

    Any number of processes may call this at once: one creates, the others wait and open.  What a
    killed creator left half done is cleared and done again.

    Args:
        root: Place, path or URL below which caches lie; made if need be.
        manifest: What the cache is of; its ``files`` and ``created`` are filled in here.
        attachments: Called only by whoever creates, returns files to keep with the cache by
            name.  They are not part of the fingerprint: what matters in them belongs into the
            inputs.

    Raises:
        ManifestError: The manifest found there, or an attachment's name, is not usable.
        DamageError: There are commit records but no manifest.
        StorageError: A file could not be written.
    """
    place = parse_place(root) / manifest.directory
    files = place.open_files()
    if files.size(MANIFEST) is None:
        place.prepare()
        with place.open_claims().creating():
            if files.size(MANIFEST) is None:
                _create(place, files, manifest, attachments)
    return open_cache(place, manifest.fingerprint)


def open_cache(path: str | Path | Place, fingerprint: str | None = None) -> Cache:
    """Open a cache directory.

    Args:
        path: The place, or its path or URL.
        fingerprint: The fingerprint that it must have, if it matters.

    Raises:
        ManifestError: There is no cache, or its manifest is damaged.
        VersionError: It is of another version of the format.
        ForeignError: It is another cache than the one asked for, or than its directory says.
    """
    place = parse_place(path)
    data = place.open_files().read(MANIFEST, LARGEST_MANIFEST)
    if data is None:
        raise ManifestError(f"{place} is not a cache: it has no {MANIFEST}")
    manifest = Manifest.from_bytes(data, f"{place}/{MANIFEST}")
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise ForeignError(
            f"{place} is another cache: its fingerprint is {manifest.fingerprint}, asked for is "
            f"{fingerprint}"
        )
    # Either name will do, so that a link to a cache is as good as the cache.
    if manifest.directory not in place.names:
        raise ForeignError(
            f"{place} holds the manifest of another cache, whose directory would be named "
            f"{manifest.directory}"
        )
    return Cache(place, manifest)


def list_caches(root: str | Path | Place) -> list[CacheSummary]:
    """Return a summary of every directory below a root, by name; hidden ones are left out.

    A directory that is not a sound cache is listed with what is wrong with it.

    Raises:
        StorageError: The root is there but cannot be listed.
    """
    return [_summarise(place) for place in parse_place(root).list_places()]


def _summarise(place: Place) -> CacheSummary:
    total = sum(size for _, size in place.open_files().walk())
    try:
        cache = open_cache(place)
    except CacheError as error:
        return CacheSummary(place, None, 0, total, None, str(error))
    error_found = None
    moments = []
    committed = cache.committed()
    for shard in committed:
        try:
            moments.append(cache.record(shard).finished)
        except CacheError as error:
            error_found = error_found or str(error)
    newest = max(moments, default=None)
    return CacheSummary(place, cache.manifest, len(committed), total, newest, error_found)


def _create(
    place: Place,
    files: Files,
    manifest: Manifest,
    attachments: Callable[[], Mapping[str, bytes]],
) -> None:
    if files.names(DIRECTORY):
        # Never a killed creator's: records come after the manifest.  They may be paid work.
        raise damage(place, MANIFEST, "missing, although shards are committed")
    for leftover in (GROUP, ATTACHMENTS.rstrip("/"), TEMPORARY):
        files.clear(leftover)
    contents = {}
    for name, data in attachments().items():
        contents[check_attachment_name(name)] = data
    contents.update(metadata(manifest.layout, manifest.fingerprint))
    complete = replace(
        manifest,
        files={path: FileInfo.of(data) for path, data in contents.items()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    # Made before anything is written, since it may yet turn out too large.
    data = complete.to_bytes()
    files.write(contents)
    files.put_if_absent(MANIFEST, data)
