"""Where caches lie: below a root, one directory a task."""

from __future__ import annotations

import json
from pathlib import Path

from cache.places import parse_place
from cache.store import Cache, CacheSummary, list_caches, open_cache
from stages.errors import CacheChoiceError


def find_caches(root: str | Path) -> list[CacheSummary]:
    """Return the caches below a root, those of each task together.

    Raises:
        StorageError: A directory is there but cannot be listed.
    """
    tasks = parse_place(root).list_places()
    return [summary for place in tasks for summary in list_caches(place)]


def open_named_cache(root: str | Path, task: str, fingerprint: str) -> Cache:
    """Open the cache of a task that has a fingerprint, or whose fingerprint begins so.

    Raises:
        CacheChoiceError: There is none, or several begin so.
        CacheError: It cannot be opened.
    """
    found = [
        summary
        for summary in list_caches(parse_place(root) / task)
        if summary.manifest and summary.manifest.fingerprint.startswith(fingerprint)
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


def _describe(summary: CacheSummary) -> str:
    manifest = summary.manifest
    if manifest is None:
        return f"{summary.place}: {summary.error}"
    return (
        f"{manifest.fingerprint[:12]}  {manifest.label}, seed "
        f"{manifest.inputs['sampler'].get('seed', '-')}, {manifest.notes.get('model', '?')}, "
        f"{summary.committed}/{summary.shards} shards, {manifest.created}"
    )
