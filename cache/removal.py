"""Deletion: of a whole cache, or one thing in it; never what is no cache's, nor behind a link."""

import errno
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from cache.directory import attempt
from cache.errors import LostClaimError, ManifestError, PlaceError, StorageError
from cache.format import (
    ATTACHMENTS,
    DIRECTORY,
    GROUP,
    LARGEST_MANIFEST,
    MANIFEST,
    Manifest,
    committed_shards,
)
from cache.stores import CLAIMS, TEMPORARY, Files, LocalPlace, Place, parse_place, reporting

_CONTENTS = (DIRECTORY, GROUP, ATTACHMENTS.rstrip("/"), TEMPORARY, MANIFEST)
"""What a cache is made of, in the order in which it goes: what is left never promises more."""

_NAME = re.compile(r"[0-9a-f]{32}")
_IS_DIRECTORY = (errno.EISDIR, errno.EPERM)
"""What removing a file says of a directory, on Linux and elsewhere."""


def remove_cache(place: str | Path | Place) -> None:
    """Remove a cache, damaged, half created or half removed ones too.

    Commit records go first and the manifest last: a kill leaves a cache that says truly how little
    it holds.  Waits for who is just creating it.  Files that are no cache's stay.

    Raises:
        PlaceError: It is a link.
        ManifestError: It is not a cache.
        VersionError: It is of another version of the format.
        ClaimError: A live process works on it.
        LostClaimError: The right to remove it was lost on the way.
        StorageError: The storage refuses.
    """
    place = parse_place(place)
    check_removable(place)
    files, claims = place.open_files(), place.open_claims()
    # Who wants to create the cache anew must wait, or would lose the half of it.
    with claims.creating() as may_create, claims.removing() as may_remove:
        for name in _CONTENTS:
            erase(place, files, name, lambda: may_create() and may_remove())
        # The locks held here go last: from then on others may create the cache anew.
        alone = set(files.names()) <= {CLAIMS}
        try:
            files.clear("" if alone else CLAIMS)
        except StorageError as error:
            raise StorageError(f"{place} was emptied, but not removed itself: {error}") from error


def check_removable(place: Place) -> Manifest | None:
    """Make sure that a place is a cache, or what is left of one, and no user's directory.

    Gives its manifest, or None where there is no sound one; raises as :func:`remove_cache` does.
    """
    if isinstance(place, LocalPlace) and _is_link(place.path):
        raise PlaceError(
            f"{place} is a link to {place.path.resolve()}: name that to remove the cache, or "
            "remove the link itself with rm"
        )
    files = place.open_files()
    names = set(files.names())
    only_ours = names <= {*_CONTENTS, CLAIMS}
    data = attempt(lambda: files.read(MANIFEST, LARGEST_MANIFEST))
    try:
        manifest = Manifest.from_bytes(data, str(place)) if isinstance(data, bytes) else None
    except ManifestError:
        manifest = None
    if manifest is not None and (only_ours or manifest.directory in place.names):
        return manifest
    # Without a manifest the directory's name must say so, and something in it.
    with reporting("look at", str(place)):
        there = bool(names) or (isinstance(place, LocalPlace) and place.path.is_dir())
    named = any(_NAME.fullmatch(name) for name in place.names)
    holds = only_ours or bool(committed_shards(files.names(DIRECTORY)))
    if there and manifest is None and named and holds:
        return None
    raise ManifestError(f"{place} is not a cache, or not only one; nothing was removed")


def erase(place: Place, files: Files, path: str, is_mine: Callable[[], bool]) -> None:
    """Remove a file, a link, or a directory with all that is in it, if it is in the cache.

    StorageError: it lies behind a link, or the storage refuses; LostClaimError: the right to do so
    is not held any more.
    """
    if isinstance(place, LocalPlace):
        for link in (place.path / parent for parent in PurePosixPath(path).parents):
            if link != place.path and _is_link(link):
                raise StorageError(
                    f"cannot remove {path}: {link} is a link to {link.resolve()}, and what lies "
                    "there may not be this cache's; remove it by hand"
                )
    # Suspended for long, this may wake up when someone else has made the thing anew.
    if not is_mine():
        raise LostClaimError.lapsed(place, "removed in part only")
    try:
        files.remove(path)
    except StorageError as error:
        if getattr(error.__cause__, "errno", None) not in _IS_DIRECTORY:
            raise
    files.clear(path)


def _is_link(path: Path) -> bool:
    with reporting("look at", path):
        return path.is_symlink()
