"""What a run of the teacher stage would take, from a short measurement that writes nothing."""

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
from stages.inputs import build_samplers
from stages.teacher.attachments import compute_thresholds
from stages.teacher.autotune import find_tuning, read_tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.plan import TeacherPlan, prepare_teacher
from stages.teacher.verdict import Verdict, answer_chosen, answer_sample, judge_answers

if TYPE_CHECKING:
    from stages.reporter import Reporter

MEASURED_SECONDS = 8.0


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of a run.

    Attributes:
        directory: Where the rows would lie.
        rows: Rows of the whole cache.
        rows_there: Those that are there already.
        batch_positions: Most positions in one forward pass.
        rows_per_second: Of the lengths that the cache has, measured.
        measured_rows: Rows that it was measured on.
        seconds: For the rows that are missing, one worker.
        bytes: Rows and embedding table of the whole cache take on disk, before compression.
        verdict: What could be learned from the rows, by a sample of them.
    """

    directory: str
    rows: int
    rows_there: int
    batch_positions: int
    rows_per_second: float
    measured_rows: int
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
    plan = prepare_teacher(config, reporter)
    place = parse_place(config.cache) / plan.task.name / plan.manifest.directory
    there, tuning = 0, None
    try:
        cache = open_cache(place, plan.manifest.fingerprint)
        there = sum(len(cache.rows_of(shard)) for shard in cache.committed())
        tuning = read_tuning(cache.manifest.notes)
    except ManifestError:
        if place.open_files().size("manifest.json") is not None:
            raise
    teacher, lengths, layout = plan.teacher, plan.inputs.lengths, plan.manifest.layout
    if tuning is None:
        # Compiling is left out: it takes longer than everything else here.
        tuning = find_tuning(teacher, lengths, plan.config.batch_positions, "off", reporter)
    name, positions = plan.inputs.identity["name"], tuning.batch_positions
    samplers = build_samplers(name, teacher.table, compute_thresholds(plan.inputs, teacher))
    # Batches were tried on rows that were there; here some are yet to be written.
    rate = None if plan.inputs.written else tuning.rate
    rate = rate or _measure(plan, samplers, positions, MEASURED_SECONDS / 8, 0)[0]
    rate, rows = _measure(plan, samplers, positions, MEASURED_SECONDS, rate)
    sample = answer_sample(plan, samplers, positions)
    whole = float((lengths + teacher.positions_around).sum()) / rate
    row_bytes = sum(column.row_bytes for column in layout.columns.values())
    return Estimate(
        directory=str(place),
        rows=len(lengths),
        rows_there=there,
        batch_positions=positions,
        rows_per_second=len(lengths) / whole,
        measured_rows=rows,
        seconds=whole * (len(lengths) - there) / len(lengths),
        bytes=layout.rows * row_bytes + teacher.table.numel() * teacher.table.element_size(),
        verdict=judge_answers(sample, plan.task.label_names, name),
    )


def _measure(
    plan: TeacherPlan,
    samplers: Mapping[str, Sampler],
    batch_positions: int,
    seconds: float,
    rate: float,
) -> tuple[float, int]:
    """Return positions a second over rows spread evenly over the cache, and how many they were."""
    layout = plan.manifest.layout
    positions = plan.inputs.lengths + plan.teacher.positions_around
    share = min(1.0, max(batch_positions, seconds * rate) / float(positions.sum()))
    chunk = layout.chunk_rows
    chunks = -(-layout.rows // chunk)
    count = max(1, min(chunks, round(share * chunks), layout.shard_rows // chunk))
    begins = np.linspace(0, chunks - 1, count).astype(int) * chunk
    rows = (begins[:, None] + np.arange(chunk)).flatten()
    rows = rows[rows < layout.rows]
    began = time.perf_counter()
    answer_chosen(plan, rows, samplers, batch_positions)
    return float(positions[rows].sum()) / (time.perf_counter() - began), len(rows)
