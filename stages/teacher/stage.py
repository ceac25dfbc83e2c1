"""Stage one: the teacher's answers to random inputs (or to texts), into the cache.

Any number of processes with the same settings share the work; each takes the next free shard.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cache.directory import Cache
from cache.format import MANIFEST
from cache.opening import create_or_open, open_cache
from cache.reader import CacheReader
from cache.stores import Place, parse_place
from stages.devices import find_main_device
from stages.errors import ModelError
from stages.inputs import (
    ATTACHMENT,
    SELF_GENERATED,
    SelfGenerated,
    describe_difference,
    pack_attachments,
    read_parts,
)
from stages.metrics import Projection, compute_projection
from stages.teacher.autotune import Tuning, apply_tuning, find_tuning, read_tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.fill import fill_cache
from stages.teacher.next_token import compute_thresholds
from stages.teacher.plan import Preparation, prepare_teacher
from stages.teacher.sample import answer_sample
from stages.teacher.self_generated import make_self_generated
from stages.teacher.teacher import Callbacks
from stages.teacher.verdict import Verdict, judge_answers

if TYPE_CHECKING:
    from stages.reporter import Reporter


@dataclass(frozen=True)
class TeacherResult:
    """A complete cache.

    Attributes:
        cache: The cache.
        computed: Rows that this process computed.
        seconds: Time it took for them.
        answers: The teacher's class balance and spread over all rows.
        verdict: What can be learned from them.
    """

    cache: Cache
    computed: int
    seconds: float
    answers: Projection
    verdict: Verdict


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

    place = parse_place(config.cache) / ready.task.name
    made: dict[str, Any] = {}

    def attach() -> Mapping[str, bytes]:
        began = time.monotonic()
        files = pack_attachments(
            ready.load_teacher().table,
            ready.tokenizer,
            compute_thresholds(ready.inputs, ready.load_teacher()),
        )
        made["seconds"] = time.monotonic() - began
        own = _write_self_generated(
            ready, _count_self_generated(ready, place / ready.manifest.directory)
        )
        made[SELF_GENERATED] = 0 if own is None else len(own.lengths)
        return files if own is None else files | {ATTACHMENT: own.to_bytes()}

    def note() -> Mapping[str, Any]:
        found.append(_find(ready))
        return made | {"tuning": found[0].to_notes(describe_device(ready.device))}

    cache = create_or_open(place, ready.manifest, attach, note)

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

    sampler = str(ready.inputs.identity["name"])
    kind = "texts" if config.texts else f"random inputs ({sampler})"
    lengths = ready.inputs.lengths
    span = f"{lengths.min()}-{lengths.max()}" if ready.inputs.writing is None else "up to "
    span += str(lengths.max()) if ready.inputs.writing is not None else ""
    reporter.say(f"rows: {len(lengths):,} {kind} of {span} tokens")
    reporter.say(f"cache: {cache.place}")
    if not found and (line := describe_difference(cache, config.self_generated)):
        reporter.say(line)
    labels = ready.task.label_names
    if not (there := cache.committed()):
        teacher, positions = ready.load_teacher(), settle_batches()
        parts = read_parts(cache, teacher.table)
        sample = answer_sample(ready, parts, teacher, positions)
        _judge(sample, labels, sampler, reporter)
    elif len(there) < cache.shards:
        reporter.say("no sample is answered: the verdict is on the rows that are there")
        answers = measure_answers(CacheReader(cache, shards=there), len(labels))
        _judge(answers, labels, sampler, reporter)
    began = time.monotonic()
    computed = fill_cache(cache, ready.inputs, ready.load_teacher, settle_batches, reporter)
    seconds = time.monotonic() - began
    if computed:
        reporter.say(
            f"computed {computed:,} rows in {seconds:.1f} s: {computed / seconds:,.0f} a s"
        )
    else:
        reporter.say("every row was there already")
    answers = measure_answers(CacheReader(cache), len(labels))
    verdict = _judge(answers, labels, sampler, reporter)
    return TeacherResult(cache, computed, seconds, answers, verdict)


def _judge(answers: Projection, labels: Sequence[str], sampler: str, reporter: Reporter) -> Verdict:
    """Say what the answers are and what can be learned from them; louder where that is little."""
    verdict = judge_answers(answers, labels, sampler)
    reporter.say(
        f"teacher, {answers.rows:,} rows: {verdict.shares}; ‖g‖ {answers.norm_g:.4f}, "
        f"spread {answers.spread:.4f}"
    )
    tell = reporter.say if verdict.level == "fine" else reporter.warn
    tell(f"verdict on {verdict.rows:,} rows: {verdict.level}: {verdict.words}")
    return verdict


def _count_self_generated(ready: Preparation, place: Place) -> int:
    """Return how many texts to write; for a cache that lost them, as many as it had."""
    if place.open_files().size(MANIFEST) is None:
        return ready.config.self_generated
    notes = open_cache(place, ready.manifest.fingerprint).manifest.notes
    return int(notes.get(SELF_GENERATED, ready.config.self_generated))


def _write_self_generated(ready: Preparation, rows: int) -> SelfGenerated | None:
    reporter = ready.reporter
    if not rows:
        return None
    try:
        with reporter.track("self-generated texts", rows, 0, "text") as show:

            def advance(texts: int) -> None:
                show(texts)
                reporter.check_stop()

            callbacks = Callbacks(advance, reporter.warn)
            return make_self_generated(ready.load_teacher(), ready.config.seed, rows, callbacks)
    except ModelError as error:
        reporter.warn(
            f"students of this cache are measured on no texts of the model's own: {error}"
        )
        return None


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
    shards = [reader.read_shard(shard)["probabilities"] for shard in reader.shards]
    g = np.concatenate([np.empty((0, classes), np.float32), *shards])
    return compute_projection(g, g)
