"""Whether anything can be learned from a teacher's answers, before the money is spent.

The measure is the method's own angle (paper, Eq. 15): that between the teacher and the best
constant, ``arctan(spread / ‖mean g‖)``.  Students that learned the mini teacher from random inputs
end at an α of 0.11 to 0.25, so where a constant is as near as that, a small α says nothing: below
the range there is nothing to learn, within it little.

Where nearly all rows get the same answer besides, twice that angle is no better: all that differs
is how sure the teacher is.  The mini teacher has 0.09 to 0.11 on such inputs, by seed, and 0.37 and
more on inputs that teach, so that 0.2 is about twice the one and half of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.draw import Sampler
from cache.reader import CacheReader
from stages.metrics import DOUBTFUL_ANGLE, Projection, compute_projection, count_share
from stages.teacher.fill import answer_inputs
from stages.teacher.plan import TeacherPlan
from stages.teacher.teacher import Callbacks

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
    """What is to be expected of learning from these answers.

    Attributes:
        level: ``fine``, ``doubtful`` or ``hopeless``.
        reason: A sentence, with what to do where it is not fine.
        answers: The teacher's class balance and spread.
        labels: The classes' names.
    """

    level: str
    reason: str
    answers: Projection
    labels: tuple[str, ...]

    @property
    def shares(self) -> str:
        """How often each class is the answer, as a line."""
        pairs = zip(self.labels, self.answers.balance, strict=True)
        return ", ".join(f"{label} {share:.1%}" for label, share in pairs)


def judge_answers(found: Projection, labels: Sequence[str], sampler: str) -> Verdict:
    """Judge a teacher's answers.

    Args:
        found: The teacher's figures; the student's are not looked at.
        labels: The classes' names in column order.
        sampler: Where the inputs come from, for advice.
    """
    labels = tuple(labels)
    if math.isnan(found.norm_g):
        reason = "the teacher's answers are NaN or infinite: its weights are damaged"
        return Verdict("hopeless", reason, found, labels)
    angle, top = found.constant_angle, int(np.argmax(found.balance))
    shares = [count_share(round(share * found.rows), found.rows) for share in found.balance]
    one_sided = shares[top].low > ONE_SIDED
    rare = {
        label: share.high
        for label, share in zip(labels, shares, strict=True)
        if share.high < RARE / len(labels)
    }
    reason = (
        f"the teacher answers {labels[top]!r} to {found.balance[top]:.0%} of these inputs, with a "
        f"spread of {found.spread:.2f}: "
    )
    if angle < DOUBTFUL_ANGLE and one_sided:
        level = "hopeless"
        reason += "hardly more than that answer can be learned from them"
    elif angle < HOPELESS_ANGLE:
        level = "hopeless"
        reason += "nothing can be learned from them"
    elif angle < DOUBTFUL_ANGLE or one_sided:
        level = "doubtful"
        reason += "little can be learned from them"
    elif rare:
        level = "doubtful"
        reason = (
            f"to these inputs the teacher hardly ever answers {', '.join(map(repr, rare))} (at "
            f"most {max(rare.values()):.1%}), which a student then hardly learns"
        )
    else:
        return Verdict("fine", f"{reason}there is something to learn", found, labels)
    if sampler == "texts":
        advice = "look at the prompt and the label words"
    else:
        other = "unigram" if sampler != "unigram" else "unigram=0.5,self=0.5"
        advice = f"try the sampler {other}, or other label words"
    return Verdict(level, f"{reason}; {advice}", found, labels)


def answer_sample(
    plan: TeacherPlan, samplers: Mapping[str, Sampler], batch_positions: int
) -> Projection:
    """Answer a sample of a cache's rows before all of them are computed.

    Args:
        plan: What the cache is of.
        samplers: What draws its rows, by name.
        batch_positions: Most positions in one forward pass.

    Returns:
        The teacher's class balance and spread on them.

    Raises:
        Interrupted: A stop was asked for.
    """
    chunk, rows = plan.manifest.layout.chunk_rows, len(plan.inputs.lengths)
    chunks = -(-rows // chunk)
    begins = np.unique(np.linspace(0, chunks - 1, min(chunks, SAMPLE_CHUNKS)).astype(int)) * chunk
    chosen = begins[:, None] + np.arange(min(chunk, SAMPLE_ROWS))
    columns = answer_chosen(plan, chosen[chosen < rows], samplers, batch_positions)
    return compute_projection(columns["probabilities"], columns["probabilities"])


def answer_chosen(
    plan: TeacherPlan, rows: np.ndarray, samplers: Mapping[str, Sampler], batch_positions: int
) -> dict[str, Any]:
    """Answer some of a cache's rows without showing progress; returns their columns."""
    reporter = plan.reporter
    callbacks = Callbacks(lambda done: reporter.check_stop(), reporter.warn)
    inputs = plan.inputs.select(rows)
    return answer_inputs(inputs, samplers, plan.teacher, batch_positions, callbacks)


def measure_answers(reader: CacheReader) -> Projection:
    """Return the teacher's class balance and spread over the shards of a cache."""
    g = np.concatenate([reader.read_shard(shard)["probabilities"] for shard in reader.shards])
    return compute_projection(g, g)
