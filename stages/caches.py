"""Where caches lie: below a root, one directory a task."""

from __future__ import annotations

from pathlib import Path

from cache.store import CacheSummary, list_caches


def find_caches(root: Path) -> list[CacheSummary]:
    """Return the caches below a root, those of each task together.

    Raises:
        StorageError: A directory is there but cannot be listed.
    """
    if not root.is_dir():
        return []
    tasks = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    return [summary for path in tasks for summary in list_caches(path)]
