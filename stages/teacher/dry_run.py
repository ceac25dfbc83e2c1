"""What a run of the teacher stage would take, from a short trial that writes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache.draw import Sampler
from cache.errors import ManifestError
from cache.opening import open_cache
from cache.stores import parse_place
from stages.inputs import build_parts
from stages.teacher.autotune import find_tuning, read_tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.fill import answer_inputs
from stages.teacher.next_token import compute_thresholds
from stages.teacher.plan import Preparation, prepare_teacher
from stages.teacher.sample import answer_sample
from stages.teacher.teacher import Callbacks, Teacher
from stages.teacher.verdict import Verdict, judge_answers

if TYPE_CHECKING:
    from stages.reporter import Reporter

TRIAL_SECONDS = 8.0


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of a run.

    Attributes:
        directory: Where the rows would lie.
        rows: Rows of the whole cache.
        rows_there: Those that are there already.
        batch_positions: Most positions in one forward pass.
        rows_per_second: Of the lengths that the cache has, measured.
        trial_rows: Rows that it was measured on.
        seconds: For the rows that are missing, one worker.
        bytes: Of the whole cache on disk.
        verdict: What could be learned from the rows, by a sample of them.
    """

    directory: str
    rows: int
    rows_there: int
    batch_positions: int
    rows_per_second: float
    trial_rows: int
    seconds: float
    bytes: int
    verdict: Verdict


def estimate_teacher(config: TeacherConfig, reporter: Reporter) -> Estimate:
    """Load the model, answer some of the rows, and write nothing.

    Args:
        config: The settings of the run.
        reporter: Told about choices and findings.

    Returns:
        What the run would take.

    Raises:
        StageError: Task, model or texts are not usable.
        CacheError: There is a cache of these settings, and it is damaged.
        Interrupted: A stop was asked for.
    """
    ready = prepare_teacher(config, reporter)
    place = parse_place(config.cache) / ready.task.name / ready.manifest.directory
    there, tuning = 0, None
    try:
        cache = open_cache(place, ready.manifest.fingerprint)
        there = sum(len(cache.rows_of(shard)) for shard in cache.committed())
        tuning = read_tuning(cache.manifest.notes)
    except ManifestError:
        if place.open_files().size("manifest.json") is not None:
            raise
    teacher = ready.load_teacher()
    lengths = ready.inputs.lengths
    if tuning is None:
        # Compiling is left out: it takes longer than everything else here.
        tuning = find_tuning(teacher, lengths, ready.config.batch_positions, "off", reporter)
    positions = tuning.batch_positions
    name = ready.inputs.identity["name"]
    parts = build_parts(name, teacher.table, compute_thresholds(ready.inputs, teacher))
    # The trial of batches answered rows that were there; here some are yet to be written.
    rate = None if ready.inputs.writing else tuning.rate
    rate = rate or _measure(ready, parts, teacher, positions, TRIAL_SECONDS / 8, 0)[0]
    rate, rows = _measure(ready, parts, teacher, positions, TRIAL_SECONDS, rate)
    sample = answer_sample(ready, parts, teacher, positions)
    whole = float((lengths + teacher.positions_around).sum()) / rate
    return Estimate(
        directory=str(place),
        rows=len(lengths),
        rows_there=there,
        batch_positions=positions,
        rows_per_second=len(lengths) / whole,
        trial_rows=rows,
        seconds=whole * (len(lengths) - there) / len(lengths),
        bytes=_count_bytes(ready, teacher),
        verdict=judge_answers(sample, ready.task.label_names, name),
    )


def _measure(
    ready: Preparation,
    parts: Mapping[str, Sampler],
    teacher: Teacher,
    batch_positions: int,
    seconds: float,
    rate: float,
) -> tuple[float, int]:
    """Return positions a second over rows spread evenly over the cache, and how many they were."""
    inputs, layout = ready.inputs, ready.manifest.layout
    each = inputs.lengths + teacher.positions_around
    share = min(1.0, max(batch_positions, seconds * rate) / float(each.sum()))
    chunk = layout.chunk_rows
    chunks = -(-len(each) // chunk)
    count = max(1, min(chunks, round(share * chunks), layout.shard_rows // chunk))
    spread = np.linspace(0, chunks - 1, count).astype(int)
    rows = np.concatenate([np.arange(k * chunk, min((k + 1) * chunk, len(each))) for k in spread])
    callbacks = Callbacks(lambda done: ready.reporter.check_stop(), ready.reporter.warn)
    began = time.perf_counter()
    answer_inputs(inputs.select(rows), parts, teacher, batch_positions, callbacks)
    return float(each[rows].sum()) / (time.perf_counter() - began), len(rows)


def _count_bytes(ready: Preparation, teacher: Teacher) -> int:
    """Return what rows and the embedding table take on disk, before compression."""
    layout = ready.manifest.layout
    row = sum(column.row_bytes for column in layout.columns.values())
    return layout.rows * row + teacher.table.numel() * teacher.table.element_size()
