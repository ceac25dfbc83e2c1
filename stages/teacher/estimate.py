"""What a run would take and what could be learned from it, before the money is spent.

Whether anything can be learned from a teacher's answers is told by the method's own angle (paper,
Eq. 15): that between the teacher and the best constant, ``arctan(spread / ‖mean g‖)``.  Students of
mini end at an α of 0.11 to 0.25: below that there is nothing to learn, within it little.  Mini has
0.09 to 0.11 on inputs that nearly all get the same answer, and 0.37 and more on inputs that teach.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.draw import Sampler
from cache.errors import ManifestError
from cache.opening import open_cache
from cache.reader import CacheReader
from cache.stores import parse_place
from stages.inputs import (
    SelfGenerated,
    build_samplers,
    find_drawn,
    is_written,
    read_self_generated,
)
from stages.metrics import DOUBTFUL_ANGLE, Projection, compute_projection, count_share
from stages.reporter import Reporter
from stages.teacher.ability import Ability, judge_ability
from stages.teacher.autotune import apply_pass, find_tuning, read_tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.fill import (
    answer_inputs,
    compute_thresholds,
    make_self_generated,
    write_inputs,
)
from stages.teacher.generation import MOST_ROWS
from stages.teacher.plan import TeacherPlan, prepare_teacher

MEASURED_SECONDS = 8.0
FEW_CONTEXTS = 32  # of what `unigram` draws by: an eighth of a cache's, which take a core minutes
SAMPLE_CHUNKS, SAMPLE_ROWS = 64, 8
"""Chunks, each of a length of its own, that a sample is taken of, and rows of each."""

HOPELESS_ANGLE = 0.1
"""Radians between the teacher and a constant: nearer than trained students come to the teacher."""

RARE = 0.1
"""Share of its even share below which a class hardly occurs."""

ONE_SIDED = 0.95
"""Share of one class above which the others are hardly seen."""


@dataclass(frozen=True)
class Verdict:
    """What is to be expected of learning from these answers."""

    level: str  # fine, doubtful or hopeless
    reason: str  # a sentence, with what to do where it is not fine
    answers: Projection
    labels: tuple[str, ...]

    @property
    def shares(self) -> str:
        """How often each class is the answer, as a line."""
        pairs = zip(self.labels, self.answers.balance, strict=True)
        return ", ".join(f"{label} {share:.1%}" for label, share in pairs)


def judge_answers(found: Projection, labels: Sequence[str]) -> Verdict:
    """Judge a teacher's answers.

    The labels are in column order.  The student's figures of the projection are not looked at.
    """
    labels = tuple(labels)
    if math.isnan(found.norm_g):
        reason = "the teacher's answers are NaN or infinite: its weights are damaged"
        return Verdict("hopeless", reason, found, labels)
    angle, top = found.constant_angle, int(np.argmax(found.balance))
    shares = [count_share(round(share * found.rows), found.rows) for share in found.balance]
    one_sided = shares[top].low > ONE_SIDED
    most = zip(labels, (share.high for share in shares), strict=True)
    rare = {label: high for label, high in most if high < RARE / len(labels)}
    level, finding = "fine", "there is something to learn"
    if angle < DOUBTFUL_ANGLE and one_sided:
        level, finding = "hopeless", "hardly more than that answer can be learned from them"
    elif angle < HOPELESS_ANGLE:
        level, finding = "hopeless", "nothing can be learned from them"
    elif angle < DOUBTFUL_ANGLE or one_sided:
        level, finding = "doubtful", "little can be learned from them"
    elif rare:
        named = f"{', '.join(map(repr, rare))} (at most {max(rare.values()):.1%})"
        level = "doubtful"
        finding = f"it hardly ever answers {named}, which a student hardly learns"
    reason = (
        f"the teacher answers {labels[top]!r} to {found.balance[top]:.0%} of these inputs, with a "
        f"spread of {found.spread:.2f}: {finding}"
    )
    if level != "fine":
        reason += "; try another prompt, other label words, or another sampler"
    return Verdict(level, reason, found, labels)


def answer_sample(
    plan: TeacherPlan,
    samplers: Mapping[str, Sampler],
    batch_positions: int,
    texts: SelfGenerated | None,
) -> tuple[str, dict[str, Any]]:
    """Answer a sample of a cache's rows before all are computed; returns what it is, and columns.

    Where some rows are drawn and others written, which is slow, it is one of those drawn.  Where
    all are written, self-generated texts, if there are any, stand for it.
    """
    if texts is not None and is_written(plan.inputs.identity["name"]):
        return "self-generated texts", texts.to_columns()
    rows = _spread_rows(plan, SAMPLE_CHUNKS, SAMPLE_ROWS)
    rows = rows[find_drawn(plan.inputs.identity["name"], plan.inputs.seeds[rows])]
    return "rows", answer_chosen(plan, rows, samplers, batch_positions, "sample")


def answer_chosen(
    plan: TeacherPlan,
    rows: np.ndarray,
    samplers: Mapping[str, Sampler],
    batch_positions: int,
    title: str,
) -> dict[str, Any]:
    """Answer some of a cache's rows under a title; returns their columns."""
    inputs = write_inputs(plan.inputs.select(rows), samplers, plan.teacher, plan.reporter)
    with plan.reporter.track(title, len(rows), 0, "row") as advance:
        return answer_inputs(inputs, samplers, plan.teacher, batch_positions, advance)


def read_answers(reader: CacheReader, reporter: Reporter) -> dict[str, Any]:
    """Return the probabilities and seeds of the rows of a cache."""
    names, parts = ("probabilities", "seed"), []
    with reporter.track("reading the answers", len(reader.shards), 0, "shard") as advance:
        for shard in reader.shards:
            columns = reader.read_shard(shard)
            parts.append([columns[name] for name in names])
            advance(1)
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def project(columns: Mapping[str, Any]) -> Projection:
    """Return the class balance and spread of a teacher's answers."""
    return compute_projection(columns["probabilities"], columns["probabilities"])


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of a run."""

    directory: str  # where the rows would lie
    rows: int  # of the whole cache
    rows_there: int
    batch_positions: int  # most positions in one forward pass
    rows_per_second: float  # of the lengths that the cache has
    measured_rows: int  # that this was measured on
    seconds: float  # for the rows that are missing, one worker
    texts: int  # self-generated ones that are missing
    writing_seconds: float  # for those texts
    bytes: int  # of rows and embedding table on disk, before compression
    verdict: Verdict  # by a sample of the rows
    ability: Ability | None  # by some texts that the model wrote for the labels


def estimate_teacher(config: TeacherConfig, reporter: Reporter) -> Estimate:
    """Load the model, answer some of the rows, and write nothing.

    StageError: task, model or texts are not usable; CacheError: the cache that is there is damaged.
    """
    plan = prepare_teacher(config, reporter)
    place = parse_place(config.cache) / plan.task.name / plan.manifest.directory
    there, tuning, texts, made = 0, None, config.self_generated, None
    try:
        cache = open_cache(place, plan.manifest.fingerprint)
        texts, made = 0, read_self_generated(cache)
        there = sum(len(cache.rows_of(shard)) for shard in cache.committed())
        tuning = read_tuning(cache.manifest.notes)
    except ManifestError:
        if place.open_files().size("manifest.json") is not None:
            raise
    teacher, lengths, layout = plan.teacher, plan.inputs.lengths, plan.manifest.layout
    if tuning is None:
        # Compiling is left out: it takes longer than everything else here.
        tuning = find_tuning(teacher, lengths, plan.config.batch_positions, "off", reporter)
    else:
        apply_pass(teacher, tuning, reporter)
    name, positions = plan.inputs.identity["name"], tuning.batch_positions
    samplers = build_samplers(
        name, teacher.table, compute_thresholds(plan.inputs, teacher, reporter, FEW_CONTEXTS)
    )
    rate, _ = _measure(plan, samplers, positions, 0)
    rate, rows = _measure(plan, samplers, positions, MEASURED_SECONDS * rate)
    few, began = min(texts, MOST_ROWS[teacher.device.type]), time.perf_counter()
    made = made or make_self_generated(teacher, config.seed, few, reporter)
    text_seconds = (time.perf_counter() - began) / few if made is not None and few else 0.0
    _, sample = answer_sample(plan, samplers, positions, made)
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
        texts=texts if text_seconds else 0,
        writing_seconds=texts * text_seconds,
        bytes=layout.rows * row_bytes + teacher.table.numel() * teacher.table.element_size(),
        verdict=judge_answers(project(sample), plan.task.label_names),
        ability=judge_ability(made, sample, name, plan.task.label_names),
    )


def _measure(
    plan: TeacherPlan, samplers: Mapping[str, Sampler], batch_positions: int, target: float
) -> tuple[float, int]:
    """Return positions a second over rows spread evenly over the cache, and how many they were."""
    layout = plan.manifest.layout
    positions = plan.inputs.lengths + plan.teacher.positions_around
    share = min(1.0, max(batch_positions, target) / float(positions.sum()))
    count = round(min(share * layout.rows, layout.shard_rows) / layout.chunk_rows)
    rows = _spread_rows(plan, max(1, count), layout.chunk_rows)
    began = time.perf_counter()
    answer_chosen(plan, rows, samplers, batch_positions, "speed")
    return float(positions[rows].sum()) / (time.perf_counter() - began), len(rows)


def _spread_rows(plan: TeacherPlan, chunks: int, most: int) -> np.ndarray:
    """Choose rows of so many chunks, evenly over the cache, and at most so many of each."""
    layout = plan.manifest.layout
    there = -(-layout.rows // layout.chunk_rows)
    begins = np.linspace(0, there - 1, min(chunks, there)).astype(int) * layout.chunk_rows
    rows = begins[:, None] + np.arange(min(most, layout.chunk_rows))
    return rows[rows < layout.rows]
