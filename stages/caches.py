"""Where caches lie: below a root, one directory a task."""

from __future__ import annotations

from pathlib import Path

from cache.store import Cache, CacheSummary, list_caches, open_cache
from stages.errors import CacheChoiceError


def find_caches(root: Path) -> list[CacheSummary]:
    """Return the caches below a root, those of each task together.

    Raises:
        StorageError: A directory is there but cannot be listed.
    """
    if not root.is_dir():
        return []
    tasks = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    return [summary for path in tasks for summary in list_caches(path)]


def open_named_cache(root: Path, task: str, fingerprint: str) -> Cache:
    """Open the cache of a task that has a fingerprint, or whose fingerprint begins so.

    Raises:
        CacheChoiceError: There is none, or several begin so.
        CacheError: It cannot be opened.
    """
    found = [
        summary
        for summary in list_caches(root / task)
        if summary.manifest and summary.manifest.fingerprint.startswith(fingerprint)
    ]
    if len(found) != 1:
        raise CacheChoiceError(
            f"{len(found) or 'no'} caches of task {task} below {root} have a fingerprint beginning "
            f"with {fingerprint!r}"
        )
    return open_cache(found[0].path)
