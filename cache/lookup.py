"""Where caches lie: below a root, one directory a task."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cache.directory import Cache
from cache.errors import CacheChoiceError, CacheError, Hint, TaskChoiceError
from cache.opening import open_cache, read_manifest
from cache.stores import LocalPlace, Place, parse_place

MOST_CANDIDATES = 20


def list_places(root: str | Path) -> list[Place]:
    """Return every directory below a root that is a cache or ought to be one."""
    return [place for task in parse_place(root).list_places() for place in task.list_places()]


def find_place(root: str | Path, name: str | None) -> Place:
    """Find the cache that is meant by a name, whether or not it can be opened.

    A name is a fingerprint's first digits, or the path or URL of a cache directory; None: the only
    one below the root.  CacheChoiceError: nothing is meant by it, or several caches.
    """
    if name is None:
        places = list_places(root)
        if len(places) != 1:
            some = f"which of {len(places)} caches is meant" if places else "there are no caches"
            raise CacheChoiceError(f"{some} below {root}{_list(places)}")
        return places[0]
    if "/" in name or Path(name).is_dir():
        place = parse_place(name)
        if isinstance(place, LocalPlace) and not place.path.is_dir():
            raise CacheChoiceError(f"there is no directory {place}")
        return place
    places = list_places(root)
    found = _matching(places, name)
    if len(found) == 1:
        return found[0]
    shown = found or places
    count = f"{len(found)} caches begin" if found else "no cache begins"
    there = "" if found else "; there are" if places else ", and there are none"
    raise CacheChoiceError(f"{count} with {name!r:.80} below {root}{there}{_list(shown)}")


def find_places(root: str | Path, names: Iterable[str]) -> list[Place]:
    """Find the caches that are meant by several names, as :func:`find_place` does, each once."""
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
    """Open the only cache of a task whose fingerprint begins so; CacheError where there is none."""
    found = _matching((parse_place(root) / task).list_places(), fingerprint)
    cache = open_cache(found[0]) if len(found) == 1 else None
    if cache is None or not cache.fingerprint.startswith(fingerprint.lower()):
        raise CacheChoiceError(
            f"{len(found) if len(found) > 1 else 'no'} caches of task {task} below {root} have a "
            f"fingerprint beginning with {fingerprint!r:.80}"
        )
    return cache


def list_usable(root: str | Path, task: str, partial: bool) -> list[Cache]:
    """Return a task's complete (or ``partial``) caches that are sound, the oldest first."""
    return _open_caches((parse_place(root) / task).list_places(), partial)[1]


def find_cache(root: str | Path, task: str | None, source: str | None, partial: bool) -> Cache:
    """Find the cache to train on; CacheChoiceError where none fits, or several do.

    ``source`` is a fingerprint's first digits, a cache directory, or a teacher's summary file;
    None: the only complete (or ``partial``) cache, or where no task is named the newest one of the
    only task that has one; TaskChoiceError: no task has one, or several have.
    """
    if source is not None:
        path = Path(source)
        if path.is_file():
            try:
                pointer = json.loads(path.read_text())
                return open_cache(parse_place(root) / pointer["directory"], pointer["fingerprint"])
            except (ValueError, KeyError, TypeError) as error:
                raise CacheChoiceError(f"{path} is no summary of a teacher") from error
        if task is None or path.is_dir() or "://" in source:
            return open_cache(find_place(root, source))
        return open_named_cache(root, task, source)
    if task is None:
        caches, usable = _open_caches(list_places(root), partial)
        newest = {str(cache.place).split("/")[-2]: cache for cache in usable}
        if len(newest) == 1:
            return next(iter(newest.values()))
        several = f"{len(newest)} tasks have" if newest else "no task has"
        kind = "a cache" if partial else "a complete cache"
        there = "" if newest or not caches else f" ({len(caches)} incomplete)"
        raise TaskChoiceError(f"{several} {kind} below {root}{there}", root, sorted(newest))
    found, fitting = _open_caches((parse_place(root) / task).list_places(), partial)
    if len(fitting) == 1 or (not fitting and len(found) == 1):
        # Of an incomplete one its reader says how much is there and what to do.
        return (fitting or found)[0]
    if not fitting:
        raise CacheChoiceError(
            f"no complete cache of task {task} below {root} ({len(found)} incomplete)",
            Hint.CREATE,
            task,
        )
    places = sorted((cache.place for cache in fitting), key=str)
    raise CacheChoiceError(
        f"{len(fitting)} caches of task {task} below {root}{_list(places)}", Hint.CHOOSE
    )


def _open_caches(places: Iterable[Place], partial: bool) -> tuple[list[Cache], list[Cache]]:
    """Open those that can be, in the order of creation, and those that will do.

    The latter are the whole and sound ones, or all where ``partial`` ones will do.
    """
    caches, complete = [], []
    for place in places:
        with suppress(CacheError):
            caches.append(open_cache(place))
    caches.sort(key=lambda cache: cache.manifest.created)
    if partial:
        return caches, caches
    for cache in caches:
        with suppress(CacheError):
            if len([cache.record(shard) for shard in cache.committed()]) == cache.shards:
                complete.append(cache)
    return caches, complete


def _matching(places: Iterable[Place], name: str) -> list[Place]:
    """Return the caches whose fingerprint begins so, a link and what it leads to once."""
    # Where the manifest cannot be read, the directory's name is the fingerprint's first half.
    digits = name[:32].lower()
    found = [place for place in places if any(known.startswith(digits) for known in place.names)]
    links = [p for p in found if isinstance(p, LocalPlace) and p.path.is_symlink()]
    real = {p.path.resolve() for p in found if isinstance(p, LocalPlace) and p not in links}
    doubles = [link for link in links if link.path.resolve() in real]
    return [place for place in found if place not in doubles]


def _list(places: list[Place]) -> str:
    lines = [f"\n  {_describe(place)}" for place in places[:MOST_CANDIDATES]]
    if len(places) > len(lines):
        lines.append(f"\n  and {len(places) - len(lines)} more")
    return "".join([":", *lines]) if lines else ""


def _describe(place: Place) -> str:
    try:
        manifest = read_manifest(place)
    except CacheError as error:
        return str(error)
    sampler, model = manifest.inputs.get("sampler"), manifest.notes.get("model", "?")
    seed = sampler.get("seed", "-") if isinstance(sampler, dict) else "-"
    return f"{place}  {manifest.label}, seed {seed}, {model}, {manifest.created}"
