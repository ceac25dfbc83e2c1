"""Caches below a root directory: made at most once each, opened with a check, and listed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache import errors
from cache.directory import Cache
from cache.format import (
    ATTACHMENTS,
    DIRECTORY,
    GROUP,
    LARGEST_MANIFEST,
    MANIFEST,
    FileInfo,
    Manifest,
    check_attachment_name,
    metadata,
)
from cache.stores import TEMPORARY, Place, parse_place

Attachments = Callable[[Mapping[str, Any]], Mapping[str, bytes]]


def create_or_open(
    root: str | Path | Place,
    manifest: Manifest,
    attachments: Attachments,
    findings: Callable[[], Mapping[str, Any]] = dict,
) -> Cache:
    """Open the cache of a manifest; of any number of processes at once, one creates it.

    What a killed creator left half done is cleared and done again.  What is missing of a cache is
    made again, the manifest too; committed shards stay, since their records say what they are of.

    Args:
        root: Below which caches lie; made if need be.
        manifest: What the cache is of; its ``files`` and ``created`` are filled in here.
        attachments: Called where one is missing, with the notes that the manifest has if there
            is one, returns the files to keep by name; the fingerprint does not know them.
        findings: Called where the manifest is written, returns notes to add to it.

    Raises:
        ManifestError: The manifest found there, or an attachment's name, is not usable, or a
            missing file comes out differently than it was.
        DamageError: Something that cannot be read is in the manifest's place.
        ClaimError: The right to create it was lost on the way, or it is being removed.
        StorageError: A file could not be written.
    """
    place = parse_place(root) / manifest.directory
    files = place.open_files()
    if files.size(MANIFEST) is None:
        place.prepare()
        with place.open_claims().creating() as is_mine:
            if files.size(MANIFEST) is None:
                _create(place, manifest, attachments, findings, is_mine)
    cache = open_cache(place, manifest.fingerprint)
    if _find_missing(cache) or _find_leftovers(cache):
        with place.open_claims().creating() as is_mine:
            if missing := _find_missing(cache):
                _restore(cache, missing, attachments, is_mine)
            for path in _find_leftovers(cache):
                cache.files.remove(path)
    return cache


def open_cache(path: str | Path | Place, fingerprint: str | None = None) -> Cache:
    """Open a cache directory, which must have a fingerprint if one is given.

    ManifestError: there is no cache, or its manifest is damaged; VersionError: it is of another
    version of the format; ForeignError: it is another cache than was asked for, or than its
    directory says.
    """
    place = parse_place(path)
    return Cache(place, read_manifest(place, fingerprint))


def read_manifest(place: Place, fingerprint: str | None = None) -> Manifest:
    """Return the manifest of a cache, as :func:`open_cache` does and raising what it raises."""
    files = place.open_files()
    data = files.read(MANIFEST, LARGEST_MANIFEST)
    if data is None:
        if not files.names(DIRECTORY):
            raise errors.ManifestError(f"{place} is not a cache: it has no {MANIFEST}")
        lost = f"{place} has commit records, but it has no {MANIFEST}"
        raise errors.ManifestError(lost, errors.Hint.VERIFY, place)
    try:
        manifest = Manifest.from_bytes(data, f"{place}/{MANIFEST}")
    except errors.ManifestError as error:
        raise errors.ManifestError(str(error), errors.Hint.VERIFY, place) from error
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise errors.ForeignError(
            f"{place} is another cache: its fingerprint is {manifest.fingerprint}, asked for is "
            f"{fingerprint}"
        )
    # Either name will do, so that a link to a cache is as good as the cache.
    if manifest.directory not in place.names:
        raise errors.ForeignError(
            f"{place} holds the manifest of another cache, whose directory would be named "
            f"{manifest.directory}"
        )
    return manifest


def summarise(place: Place) -> dict[str, Any]:
    """Say what the manifest of a directory tells, and how far the cache is, as JSON can hold it.

    ``committed`` are shards, ``bytes`` those of all files, ``error`` is what is wrong with the
    manifest; what one that cannot be read would say is None or 0.
    """
    found: dict[str, Any] = dict.fromkeys(("fingerprint", "label", "error"))
    found |= {"path": str(place), "shards": 0, "committed": 0, "complete": False}
    found["bytes"] = sum(size for _, size in place.open_files().walk())
    try:
        cache = open_cache(place)
    except errors.CacheError as error:
        return found | {"error": str(error)}
    found |= {"fingerprint": cache.fingerprint, "label": cache.manifest.label}
    committed = len(cache.committed())
    complete = committed == cache.shards
    return found | {"shards": cache.shards, "committed": committed, "complete": complete}


def _create(
    place: Place,
    manifest: Manifest,
    attachments: Attachments,
    findings: Callable[[], Mapping[str, Any]],
    is_mine: Callable[[], bool],
) -> None:
    files = place.open_files()
    # Records come after the manifest, so where there are some it was lost.  They may be paid work,
    # and each says in full what it is of: the rows stay, and whoever reads them checks that.
    lost = bool(files.names(DIRECTORY))
    if not lost:
        for leftover in (GROUP, ATTACHMENTS.rstrip("/"), TEMPORARY):
            files.discard(leftover)
    contents = {}
    for name, data in attachments({}).items():
        path = check_attachment_name(name)
        if lost and files.read(path, len(data)) not in (None, data):
            # The rows may rest on the old one, and nobody can say any more whether it is sound.
            raise errors.ManifestError(
                f"{place}/{path} is not what is made now, and the manifest that could say which "
                "of the two the rows belong to is gone; if the new one will do, remove the file"
            )
        contents[path] = data
    contents.update(metadata(manifest.layout, manifest.fingerprint))
    complete = replace(
        manifest,
        notes={**manifest.notes, **findings()},
        files={path: FileInfo.of(data) for path, data in contents.items()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    # Made before anything is written, since it may yet turn out too large.
    data = complete.to_bytes()
    files.write(contents, is_mine)
    if not is_mine():
        raise errors.LostClaimError.lapsed(place, "not created")
    if not files.put_if_absent(MANIFEST, data) and files.size(MANIFEST) is None:
        raise errors.DamageError(place, MANIFEST, "something that cannot be read is in its place")


def _find_leftovers(cache: Cache) -> list[str]:
    # Whoever is killed while a file is published leaves its temporary name, which nobody sweeps of
    # a committed shard, nor of the whole cache's files, written under the right to create alone.
    if not (names := cache.files.names(TEMPORARY)):
        return []
    paths = {MANIFEST, *cache.manifest.files}
    paths.update(path for shard in cache.committed() for path in cache.paths_of(shard))
    stems = {path.replace("/", ".") for path in paths}
    return [f"{TEMPORARY}/{name}" for name in names if name.rsplit(".", 2)[0] in stems]


def _find_missing(cache: Cache) -> list[str]:
    return [path for path in cache.manifest.files if cache.files.size(path) is None]


def _restore(
    cache: Cache, missing: list[str], attachments: Attachments, is_mine: Callable[[], bool]
) -> None:
    made = metadata(cache.layout, cache.fingerprint)
    if any(path.startswith(ATTACHMENTS) for path in missing):
        again = attachments(cache.manifest.notes)
        made.update({check_attachment_name(name): data for name, data in again.items()})
    wanted = cache.manifest.files
    lost = [path for path in missing if wanted[path].fault(made.get(path)) is not None]
    cache.files.write({path: made[path] for path in missing if path not in lost}, is_mine)
    if lost:
        raise errors.ManifestError(
            f"{cache.place}/{lost[0]} is missing and cannot be restored: it comes out differently "
            "now (another machine, or another release of a library?); if the new one will do, "
            f"remove {cache.place}/{MANIFEST}: the same command then keeps the rows and makes "
            "everything else anew"
        )
