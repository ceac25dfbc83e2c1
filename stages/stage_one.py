"""Stage one: the teacher's answers to random inputs (or to texts), into the cache.

Any number of processes with the same settings share the work; each takes the next free shard.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cache.directory import Cache
from cache.philox_torch import describe_backend
from cache.places import parse_place
from cache.reader import CacheReader
from cache.store import create_or_open
from stages.devices import find_main_device
from stages.filling import fill_cache
from stages.inputs import make_attachments
from stages.preparation import Preparation, prepare_teacher
from stages.projection import NEARLY_CONSTANT, Projection, ProjectionMeter
from stages.settings import TeacherConfig
from stages.task import Task
from stages.tuning import Tuning, apply_tuning, find_tuning, read_tuning

if TYPE_CHECKING:
    from stages.reporting import Reporter

__all__ = ["TeacherConfig", "TeacherResult", "measure_answers", "run_teacher"]


@dataclass(frozen=True)
class TeacherResult:
    """A complete cache.

    Attributes:
        cache: The cache.
        computed: Rows that this process computed.
        seconds: Time it took for them.
        answers: The teacher's class balance and spread over all rows.
    """

    cache: Cache
    computed: int
    seconds: float
    answers: Projection


def run_teacher(config: TeacherConfig, reporter: Reporter) -> TeacherResult:
    """Fill the cache of these settings, or find it filled.

    Args:
        config: The settings.
        reporter: Told about choices, progress and findings.

    Returns:
        The complete cache.

    Raises:
        StageError: Task, model or texts are not usable.
        CacheError: The cache is damaged, or an answer is not finite.
        Interrupted: A stop was asked for; committed shards stay.
    """
    ready = prepare_teacher(config, reporter)
    found: list[Tuning] = []

    def tune() -> Mapping[str, Any]:
        found.append(_find(ready))
        return {"tuning": found[0].to_notes(describe_device(ready.device))}

    cache = create_or_open(
        parse_place(config.cache) / ready.task.name,
        ready.manifest,
        lambda: make_attachments(ready.inputs, ready.load_teacher(), ready.tokenizer),
        tune,
    )

    def settle_batches() -> int:
        if not found:
            known = read_tuning(cache.manifest.notes)
            if known is None:
                reporter.say("the manifest does not say how large batches are")
                found.append(_find(ready))
            else:
                apply_tuning(ready.load_teacher(), known, reporter)
                found.append(known)
        return found[0].batch_positions

    kind = "texts" if config.texts else f"random inputs ({config.sampler})"
    if config.texts is None:
        reporter.say(describe_backend(find_main_device(ready.device)))
    lengths = ready.inputs.lengths
    reporter.say(f"rows: {len(lengths):,} {kind} of {lengths.min()}-{lengths.max()} pieces")
    reporter.say(f"cache: {cache.place}")
    began = time.monotonic()
    computed = fill_cache(cache, ready.inputs, ready.load_teacher, settle_batches, reporter)
    seconds = time.monotonic() - began
    if computed:
        reporter.say(
            f"computed {computed:,} rows in {seconds:.1f} s: {computed / seconds:,.0f} a s"
        )
    else:
        reporter.say("every row was there already")
    answers = measure_answers(CacheReader(cache), len(ready.task.labels))
    _report_answers(answers, ready.task, reporter)
    return TeacherResult(cache, computed, seconds, answers)


def describe_device(device: str) -> str:
    """Return the name of the hardware behind a device."""
    main = torch.device(find_main_device(device))
    if main.type == "cuda":
        return f"{torch.cuda.get_device_name(main)} ({device})"
    return f"{device}, {torch.get_num_threads()} threads"


def _find(ready: Preparation) -> Tuning:
    config = ready.config
    return find_tuning(
        ready.load_teacher(),
        ready.inputs.lengths,
        config.batch_positions,
        config.compile,
        ready.reporter,
    )


def measure_answers(reader: CacheReader, classes: int) -> Projection:
    """Return the teacher's class balance and spread over a whole cache."""
    meter = ProjectionMeter(classes)
    for shard in reader.shards:
        g = torch.from_numpy(reader.read_shard(shard)["probabilities"].copy())
        meter.update(g, g)
    return meter.compute()


def _report_answers(answers: Projection, task: Task, reporter: Reporter) -> None:
    shares = ", ".join(
        f"{name} {share:.1%}" for name, share in zip(task.label_names, answers.balance, strict=True)
    )
    reporter.say(f"teacher: {shares}; ‖g‖ {answers.norm_g:.4f}, spread {answers.spread:.4f}")
    if answers.teacher_nearly_constant:
        reporter.warn(
            f"the teacher is nearly constant on these inputs (spread {answers.spread:.4f} < "
            f"{NEARLY_CONSTANT}): a constant student would already have a small angle, and "
            "there is little to learn; try another sampler"
        )
