"""The caches that a student is trained on, one or one of each prompt, and their answers' prior."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from cache.directory import Cache
from cache.errors import IncompleteError
from cache.lookup import find_cache, list_usable
from cache.reader import CacheReader
from stages.errors import SettingError, Settings
from stages.inputs import TEXTS, read_self_generated, read_thresholds
from stages.metrics import Prior, average_answers, fit_prior
from stages.reporter import Reporter
from stages.tasks import AUTO, BALANCED, Task, parse_shares, restore_task

CONTENT = 0.2
"""Up to this content of the rows a prior is taken off unasked.

A prior is found on inputs that ask nothing.  A teacher that was trained on a task knows even random
tokens apart, and so it does its own texts: see benchmarks/real.md.
"""

DOUBTFUL_DISTANCE = 0.25
"""Half the sum of the differences of shares above which the prior of the rows is doubtful."""


def find_answers(
    root: str | Path, task: Task, sources: Sequence[str], partial: bool
) -> list[Cache]:
    """Find the caches that are named, or those of the task's prompts.

    SettingError: there is none of one of several prompts, or several; CacheError: as for
    :func:`cache.lookup.find_cache`.
    """
    if sources or not task.others:
        names = [each for name in sources for each in _expand(name)]
        found = [find_cache(root, task.name, name, partial) for name in names or (None,)]
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
    """Find the prior of a model on the newest random rows it has answered; None without such."""
    caches = []
    for asked in task.split():
        fitting = [
            cache
            for cache in list_usable(root, task.name, False)
            if _is_asked(cache, asked)
            and cache.manifest.notes.get("model") == model
            and cache.manifest.inputs["sampler"]["name"] != TEXTS
            and ("chat" in cache.manifest.inputs) == chat
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


def _expand(source: str) -> list[str]:
    """Return the fingerprints in a teacher's summary of several prompts; others as they are."""
    try:
        prompts = json.loads(Path(source).read_text())["prompts"]
        return [str(each["fingerprint"]) for each in prompts]
    except (OSError, ValueError, KeyError, TypeError):
        return [source]


def _check_same(caches: Collection[Cache]) -> None:
    """Raise SettingError where caches are not answers to the same rows in the same labels."""
    first, *others = caches
    for cache in others:
        faults = [
            what
            for what, own, other in (
                ("labels", _list_labels(first), _list_labels(cache)),
                ("model", first.manifest.inputs["model"], cache.manifest.inputs["model"]),
                ("random inputs", _describe_rows(first), _describe_rows(cache)),
                ("number of rows", first.layout, cache.layout),
            )
            if own != other
        ]
        if cache.fingerprint == first.fingerprint:
            faults = ["nothing: they are the same"]
        if faults:
            raise SettingError(
                f"the caches {first.place} and {cache.place} differ in {' and '.join(faults)}; "
                "several must be of the same rows under different prompts",
                Settings(("source",)),
            )


def _is_asked(cache: Cache, task: Task) -> bool:
    """Whether a cache answers a task's one prompt, its words scored the same way."""
    other = restore_task(cache.manifest.inputs["task"], str(cache.place))
    names = ("prompt", "suffix", "word_score", "label_score", "labels")
    return all(getattr(other, name) == getattr(task, name) for name in names)


def _list_labels(cache: Cache) -> list[str]:
    return [label["name"] for label in cache.manifest.inputs["task"]["labels"]]


def _describe_rows(cache: Cache) -> object:
    """Return what the rows follow from; texts that a model wrote behind its prompt are its own."""
    sampler = dict(cache.manifest.inputs["sampler"])
    if "contexts" in sampler:
        thresholds = read_thresholds(cache)
        sampler["contexts"] = None if thresholds is None else thresholds.tobytes()
    if "writing" in sampler:
        sampler["prompt"] = cache.manifest.inputs["task"]["prompt"]
    return sampler


def find_prior(
    readers: Sequence[CacheReader], asked: str, labels: Sequence[str], reporter: Reporter
) -> Prior | None:
    """Find what is to be taken off cached answers; None where nothing is.

    The readers give the same rows answered under one prompt each; labels are in column order.
    ``asked`` is ``balanced``, ``none``, shares (``label=share,…``), or ``auto``: balanced where the
    rows are without content for the teacher, else none.  SettingError: it is none of these.
    """
    shares = parse_shares(asked, labels)
    if shares is None:
        reporter.say("prior: none is taken off the teacher's answers")
        return None
    parts, shards = [], readers[0].shards
    caches = [reader.cache for reader in readers]
    with reporter.track("prior", len(shards), 0, "shard") as advance:
        for shard in shards:
            reporter.check_stop()
            answers = [it.read_column(it.record(shard), "probabilities") for it in caches]
            parts.append(average_answers(answers))
            advance(1)
    prior = fit_prior(np.concatenate(parts), shares)
    if asked == AUTO and prior.content > CONTENT:
        given = ", ".join(f"{name} {x:.1%}" for name, x in zip(labels, prior.given, strict=True))
        reporter.say(
            f"prior: none is taken off, as the teacher's answers ({given}) tell the rows apart "
            f"by {prior.content:.0%}, must be at most {CONTENT:.0%}"
        )
        return None
    told = zip(labels, prior.given, prior.shares, prior.biases, strict=True)
    reporter.say(
        "prior taken off: "
        + ", ".join(f"{name} {had:.1%} -> {has:.1%} ({b:+.2f})" for name, had, has, b in told)
        + " (mean probability, logit)"
    )
    if rare := [labels[k] for k in prior.find_rare()]:
        reporter.warn(
            f"the teacher hardly ever gives {', '.join(rare)} on these rows: what is left of its "
            "answers there is mostly noise, with the prior taken off or not"
        )
    texts = read_self_generated(caches[0]) if len(caches) == 1 else None
    if texts is not None:
        own = torch.from_numpy(texts.without(prior).logits).softmax(1).mean(0).numpy()
        if (distance := np.abs(own - prior.shares).sum() / 2) > DOUBTFUL_DISTANCE:
            found = ", ".join(f"{name} {x:.0%}" for name, x in zip(labels, own, strict=True))
            reporter.warn(
                f"the prior of these rows does not hold for texts: on those that the teacher wrote "
                f"itself its answers without it are {found}, {distance:.0%} away from the shares "
                "asked for; try another sampler, or no prior"
            )
    return prior
