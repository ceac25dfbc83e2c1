"""The caches that a student is trained on: one, or one of each prompt with the same rows."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.directory import Cache
from cache.errors import IncompleteError
from cache.lookup import find_cache, list_usable
from cache.reader import CacheReader, Columns
from stages.errors import SettingError, Settings, TrainingError
from stages.inputs import MODEL_SAMPLERS, TEXTS, read_thresholds
from stages.metrics import Prior, average_answers
from stages.reporter import Reporter
from stages.student.prior import find_prior
from stages.tasks import AUTO, BALANCED, Task, restore_task


def find_answers(
    root: str | Path, task: Task, sources: Sequence[str], partial: bool
) -> list[Cache]:
    """Find the caches that are named, or those of the task's prompts.

    Raises:
        SettingError: There is none of one of several prompts, or several.
        CacheError: As for :func:`cache.lookup.find_cache`.
    """
    if sources or not task.others:
        names = [each for name in sources for each in _expand(name)]
        found = [find_cache(root, task.name, name, partial) for name in names or (None,)]
        if not sources and not _is_asked(found[0], task):
            raise SettingError(
                f"the only cache of the task {task.name}, {found[0].place}, is of another prompt "
                "or other words; name it to use it, or have the teacher answer the task as it is",
                Settings(("source",)),
            )
        _check_same(found)
        return found
    there = list_usable(root, task.name, partial)
    found = []
    for number, each in enumerate(task.split(), 1):
        fitting = [cache for cache in there if _is_asked(cache, each)]
        if len(fitting) != 1:
            raise SettingError(
                f"prompt {number} of {1 + len(task.others)} of the task {task.name} "
                f"({each.prompt.strip()!r:.60}) has {len(fitting)} complete caches below {root}, "
                "must have one; name one for each prompt, or have the teacher answer it",
                Settings(("source",)),
            )
        found += fitting
    _check_same(found)
    return found


def find_teacher_prior(
    root: str | Path, task: Task, model: str, chat: bool, reporter: Reporter
) -> Prior | None:
    """Find the prior of a model on the newest cache it filled that is not of texts; None without.

    Raises:
        DamageError: A shard is damaged.
    """
    caches = list[Cache]()
    for asked in task.split():
        fitting = [
            cache
            for cache in list_usable(root, task.name, False)
            if _is_asked(cache, asked)
            and cache.manifest.notes.get("model") == model
            and cache.manifest.inputs["sampler"]["name"] != TEXTS
            and ("chat" in cache.manifest.inputs) == chat
            and (not caches or not _list_differences(caches[0], cache))
        ]
        if not fitting:
            reporter.say(
                f"prior: not known, {root} has no complete cache of random rows that {model} "
                "answered; the teacher is measured as it answers"
            )
            return None
        caches.append(fitting[-1])
    wanted = BALANCED if task.prior == AUTO else task.prior
    return find_prior(open_readers(caches, False), wanted, task.label_names, reporter)


def open_readers(caches: Sequence[Cache], partial: bool) -> list[CacheReader]:
    """Read the same shards of all caches: every one, or (``partial``) those that all have."""
    readers = [CacheReader(cache, partial) for cache in caches]
    common = set.intersection(*(set(reader.shards) for reader in readers))
    if all(len(reader.shards) == len(common) for reader in readers):
        return readers
    if not common:
        places = ", ".join(str(cache.place) for cache in caches)
        raise IncompleteError(f"the caches {places} have no complete shard in common")
    return [CacheReader(cache, shards=sorted(common)) for cache in caches]


def join_answers(parts: Sequence[Columns]) -> NDArray[np.float32]:
    """Average several caches' answers (N, K) to the same rows.

    TrainingError: the rows are not the same, as where a model wrote them anew for another prompt.
    """
    for name in {"seed", "tokens"} & {*parts[0]}:
        if not all(np.array_equal(parts[0][name], other[name]) for other in parts[1:]):
            raise TrainingError(
                "the caches that are averaged hold other texts in the same rows; remove all but "
                "the first prompt's and have the teacher answer the task again, which takes its "
                "texts over"
            )
    return average_answers([part["probabilities"] for part in parts])


def _expand(source: str) -> list[str]:
    """Return the fingerprints in a teacher's summary of several prompts; others as they are."""
    try:
        prompts = json.loads(Path(source).read_text())["prompts"]
        return [str(each["fingerprint"]) for each in prompts] or [source]
    except (OSError, ValueError, KeyError, TypeError):
        return [source]


def _check_same(caches: Collection[Cache]) -> None:
    """Raise SettingError where caches are not answers to the same rows in the same labels."""
    first, *others = caches
    for cache in others:
        faults = _list_differences(first, cache)
        if cache.fingerprint == first.fingerprint:
            faults = ["nothing: they are the same"]
        if faults:
            raise SettingError(
                f"the caches {first.place} and {cache.place} differ in {' and '.join(faults)}; "
                "several must be of the same rows under different prompts",
                Settings(("source",)),
            )


def _list_differences(first: Cache, cache: Cache) -> list[str]:
    """Return in what the rows of two caches and the answers to them are not of one kind."""
    pairs = (
        ("labels", _list_labels(first), _list_labels(cache)),
        ("model", first.manifest.inputs["model"], cache.manifest.inputs["model"]),
        ("random inputs", _describe_rows(first), _describe_rows(cache)),
        ("number of rows", first.layout, cache.layout),
    )
    return [what for what, own, other in pairs if own != other]


def _is_asked(cache: Cache, task: Task) -> bool:
    """Whether a cache answers a task's one prompt, its words scored the same way."""
    other = restore_task(cache.manifest.inputs["task"], str(cache.place))
    names = ("prompt", "suffix", "word_score", "label_score", "labels")
    return all(getattr(other, name) == getattr(task, name) for name in names)


def _list_labels(cache: Cache) -> list[str]:
    return [label["name"] for label in cache.manifest.inputs["task"]["labels"]]


def _describe_rows(cache: Cache) -> object:
    """Return what the rows follow from, the prompt too if a model wrote them behind no other."""
    sampler = dict(cache.manifest.inputs["sampler"])
    if "contexts" in sampler:
        thresholds = read_thresholds(cache)
        sampler["contexts"] = None if thresholds is None else thresholds.tobytes()
    if "writing" in sampler and {*MODEL_SAMPLERS}.isdisjoint(sampler["writing"]):
        sampler["prompt"] = cache.manifest.inputs["task"]["prompt"]
    return sampler
