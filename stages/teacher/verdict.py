"""Whether anything can be learned from a teacher's answers, in words, before the money is spent.

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
from collections.abc import Sequence
from dataclasses import dataclass

from stages.metrics import DOUBTFUL_ANGLE, Projection, count_share

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
        words: A sentence, with what to do where it is not fine.
        rows: Rows that it rests on.
        spread: Root mean square distance of g from its mean.
        constant_angle: Angle between g and the best constant, in radians.
        balance: Share of rows whose largest class is each one.
        labels: The classes' names.
    """

    level: str
    words: str
    rows: int
    spread: float
    constant_angle: float
    balance: tuple[float, ...]
    labels: tuple[str, ...]

    @property
    def shares(self) -> str:
        """How often each class is the answer, in words."""
        pairs = zip(self.labels, self.balance, strict=True)
        return ", ".join(f"{label} {share:.1%}" for label, share in pairs)


def judge_answers(found: Projection, labels: Sequence[str], sampler: str) -> Verdict:
    """Judge a teacher's answers.

    Args:
        found: The teacher's figures; the student's are not looked at.
        labels: The classes' names in column order.
        sampler: Where the inputs come from, for advice.
    """
    angle = found.constant_angle
    if math.isnan(found.norm_g):
        words = "the teacher's answers are NaN or infinite: its weights are damaged"
        return Verdict(
            "hopeless", words, found.rows, found.spread, angle, found.balance, (*labels,)
        )
    top = max(range(len(labels)), key=lambda column: found.balance[column])
    shares = [count_share(round(share * found.rows), found.rows) for share in found.balance]
    said = (
        f"the teacher answers {labels[top]!r} to {found.balance[top]:.0%} of these inputs, with a "
        f"spread of {found.spread:.2f}"
    )
    one_sided = shares[top].low > ONE_SIDED
    rare = [
        label
        for label, share in zip(labels, shares, strict=True)
        if share.high < RARE / len(labels)
    ]
    if angle < DOUBTFUL_ANGLE and one_sided:
        level = "hopeless"
        words = f"{said}: hardly more than that answer can be learned from them; {_advise(sampler)}"
    elif angle < HOPELESS_ANGLE:
        level = "hopeless"
        words = f"{said}: nothing can be learned from them; {_advise(sampler)}"
    elif angle < DOUBTFUL_ANGLE or one_sided:
        level = "doubtful"
        words = f"{said}: little can be learned from them; {_advise(sampler)}"
    elif rare:
        level = "doubtful"
        most = max(shares[labels.index(label)].high for label in rare)
        words = (
            f"to these inputs the teacher hardly ever answers {', '.join(map(repr, rare))} (at "
            f"most {most:.1%}), which a student then hardly learns; {_advise(sampler)}"
        )
    else:
        level = "fine"
        words = f"{said}: there is something to learn"
    return Verdict(level, words, found.rows, found.spread, angle, found.balance, (*labels,))


def _advise(sampler: str) -> str:
    if sampler == "texts":
        return "look at the prompt and the label words with `pipeline task check`"
    other = "unigram" if sampler != "unigram" else "unigram=0.5,self=0.5"
    return f"try --sampler {other}, or other label words (`pipeline task check`)"
