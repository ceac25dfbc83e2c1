"""Which task is meant where none is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cache.errors import TaskChoiceError
from pipeline.console import Console

if TYPE_CHECKING:
    from stages.tasks import Task


def choose_task(settings: dict[str, Any], console: Console) -> Task:
    """Return the task of the cache that is named, or the only one with a complete cache; say which.

    CacheError: there is none, or several could be meant; it lists them.
    """
    from cache.lookup import find_cache
    from stages.tasks import list_tasks, restore_task

    root, source = settings["cache"], settings.get("source")
    partial = settings.get("partial", False)
    if settings.get("labels") == "gold" and source is None:
        fault = "the labels gold are of a task, and no cache says which"
        raise TaskChoiceError(fault, root, list_tasks())
    cache = find_cache(root, None, source, partial)
    task = restore_task(cache.manifest.inputs.get("task"), str(cache.place))
    kind = "a cache" if partial else "a complete cache"
    why = f"that of {cache.place}" if source else f"the only one with {kind} below {root}"
    console.say(f"task: {task.name} ({why})")
    return task
