"""Where caches lie: below a root, one directory a task."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cache.errors import CacheChoiceError, CacheError
from cache.opening import Cache, CacheSummary, list_caches, open_cache, read_manifest
from cache.stores import LocalPlace, Place, parse_place

MOST_CANDIDATES = 20


def find_caches(root: str | Path) -> list[CacheSummary]:
    """Return the caches below a root, those of each task together.

    Raises:
        StorageError: A directory is there but cannot be listed.
    """
    tasks = parse_place(root).list_places()
    return [summary for place in tasks for summary in list_caches(place)]


def list_places(root: str | Path) -> list[Place]:
    """Return every directory below a root that is a cache or ought to be one.

    Raises:
        StorageError: A directory is there but cannot be listed.
    """
    return [place for task in parse_place(root).list_places() for place in task.list_places()]


def find_place(root: str | Path, name: str) -> Place:
    """Find the cache that is meant by a name, whether or not it can be opened.

    Args:
        root: Root of the caches.
        name: A fingerprint's first digits, or the path or URL of a cache directory.

    Raises:
        CacheChoiceError: Nothing is meant by it, or several caches; the message lists what there
            is.
        CacheError: The URL is none, or a directory cannot be listed.
    """
    if not name.strip():
        raise CacheChoiceError("an empty name names no cache")
    if "/" in name or Path(name).is_dir():
        place = parse_place(name)
        if isinstance(place, LocalPlace) and not place.path.is_dir():
            raise CacheChoiceError(f"there is no directory {place}")
        return place
    places = list_places(root)
    # Directories are named after the fingerprint's first half, and known by that alone where the
    # manifest cannot be read.
    digits = name[:32].lower()
    found = [place for place in places if any(own.startswith(digits) for own in place.names)]
    # A link is found by its target's name too, which is then meant itself.
    found = [place for place in found if not _leads_to_another(place, found)]
    if len(found) == 1:
        return found[0]
    shown = found or places
    lines = [f"  {_introduce(place)}" for place in shown[:MOST_CANDIDATES]]
    if len(shown) > len(lines):
        lines.append(f"  and {len(shown) - len(lines)} more")
    count = f"{len(found)} caches begin" if found else "no cache begins"
    there = "" if found else "; there are:" if lines else ", and there are none"
    raise CacheChoiceError(
        "\n".join([f"{count} with {name!r:.80} below {root}{there or ':'}", *lines])
    )


def find_places(root: str | Path, names: Iterable[str]) -> list[Place]:
    """Find the caches that are meant by several names, each once.

    Raises:
        CacheChoiceError: As for :func:`find_place`.
        CacheError: As there.
    """
    found: dict[object, Place] = {}
    for name in names:
        place = find_place(root, name)
        key: object = place
        # A link is not what it leads to, which matters to who would remove it.
        if isinstance(place, LocalPlace) and not place.path.is_symlink():
            key = place.path.resolve()
        found.setdefault(key, place)
    return list(found.values())


def open_named_cache(root: str | Path, task: str, fingerprint: str) -> Cache:
    """Open the cache of a task that has a fingerprint, or whose fingerprint begins so.

    Raises:
        CacheChoiceError: There is none, or several begin so.
        CacheError: It cannot be opened.
    """
    found = [
        summary
        for summary in list_caches(parse_place(root) / task)
        if _begins(summary, fingerprint)
    ]
    if len(found) != 1:
        raise CacheChoiceError(
            f"{len(found) or 'no'} caches of task {task} below {root} have a fingerprint beginning "
            f"with {fingerprint!r}"
        )
    return open_cache(found[0].place)


def find_cache(root: str | Path, task: str, source: str | None, partial: bool) -> Cache:
    """Find the cache to train on.

    Args:
        root: Root of the caches.
        task: The task's name.
        source: A fingerprint's first digits, a cache directory, or a teacher's summary file;
            None: the task's only complete cache.
        partial: Whether an incomplete one will do.

    Raises:
        CacheChoiceError: None fits, or several do.
        CacheError: The cache named cannot be opened.
    """
    if source is not None:
        path = Path(source)
        if path.is_file():
            try:
                pointer = json.loads(path.read_text())
                return open_cache(parse_place(root) / pointer["directory"], pointer["fingerprint"])
            except (ValueError, KeyError, TypeError) as error:
                raise CacheChoiceError(f"{path} is no summary of a teacher") from error
        if path.is_dir() or "://" in source:
            return open_cache(source)
        return open_named_cache(root, task, source)
    found = [summary for summary in list_caches(parse_place(root) / task) if summary.manifest]
    fitting = [summary for summary in found if summary.is_complete or partial]
    if len(fitting) == 1 or (not fitting and len(found) == 1):
        # Of an incomplete one its reader says how much is there and what to do.
        return open_cache((fitting or found)[0].place)
    if not fitting:
        raise CacheChoiceError(
            f"no complete cache of task {task} below {root} ({len(found)} "
            f"incomplete); run 'pipeline teacher --task {task}' first"
        )
    lines = "\n".join(f"  {_describe(summary)}" for summary in fitting)
    raise CacheChoiceError(
        f"{len(fitting)} caches of task {task} below {root}; name one with "
        f"--from and its first digits:\n{lines}"
    )


def _begins(summary: CacheSummary, digits: str) -> bool:
    if summary.manifest is not None:
        return summary.manifest.fingerprint.startswith(digits)
    # One whose manifest is damaged is found too, so that opening it says so.
    return any(name.startswith(digits[:32]) for name in summary.place.names)


def _describe(summary: CacheSummary) -> str:
    manifest = summary.manifest
    if manifest is None:
        return f"{summary.place}: {summary.error}"
    return (
        f"{manifest.fingerprint[:12]}  {manifest.label}, seed "
        f"{manifest.inputs['sampler'].get('seed', '-')}, {manifest.notes.get('model', '?')}, "
        f"{summary.committed}/{summary.shards} shards, {manifest.created}"
    )


def _leads_to_another(place: Place, others: list[Place]) -> bool:
    return isinstance(place, LocalPlace) and any(
        isinstance(other, LocalPlace)
        and other != place
        and place.path.is_symlink()
        and place.path.resolve() == other.path.resolve()
        for other in others
    )


def _introduce(place: Place) -> str:
    try:
        return f"{place}  {read_manifest(place).label}"
    except CacheError as error:
        return str(error)
