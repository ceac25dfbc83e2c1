"""What answers are worth: accuracy and F1, agreement with its interval, angles.

The angles are those of the projection of the teacher onto the student: g and h are functions with
values in the probability simplex of K classes, known on n rows.  Their inner product is the sum
over rows and classes; norms are divided by the root of the rows (paper, Eqs. 6, 7 and 15).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.errors import SettingError, TrainingError
from stages.metrics.calibration import CalibrationErrors

DOUBTFUL_ANGLE = 0.2
"""Radians between the teacher and a constant: as near as many trained students come."""

Z = 1.959963984540054
"""Standard deviations of 95 % of a normal distribution."""


@dataclass(frozen=True)
class Share:
    """A share of so many rows, with the ends of its 95 % interval."""

    rows: int
    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    def to_record(self) -> dict[str, Any]:
        """Return it as it stands in a student's record."""
        return {"rows": self.rows, "agreement": self.value, "interval": self.interval}

    def __str__(self) -> str:
        return f"{self.value:.1%} ({100 * self.low:.1f}-{100 * self.high:.1f})"


def read_share(record: Mapping[str, Any] | None) -> Share | None:
    """Read what :meth:`Share.to_record` wrote."""
    if not record:
        return None
    return Share(int(record["rows"]), float(record["agreement"]), *map(float, record["interval"]))


def count_share(hits: float, rows: int) -> Share:
    """Return a share with Wilson's 95 % interval, which 0 and 1 have too, or raise SettingError."""
    if rows < 1 or not 0 <= hits <= rows:
        raise SettingError(f"share: got {hits:g} of {rows} rows")
    value = hits / rows
    scale = 1 + Z * Z / rows
    centre = (value + Z * Z / (2 * rows)) / scale
    half = Z / scale * math.sqrt(value * (1 - value) / rows + Z * Z / (4 * rows * rows))
    # At 0 and 1 rounding may leave the interval a hair inside of the share.
    low, high = min(value, centre - half), max(value, centre + half)
    return Share(rows, value, max(0.0, low), min(1.0, high))


@dataclass(frozen=True)
class Projection:
    """What two functions on the same rows have to do with each other."""

    rows: int  # that the sums run over
    norm_g: float  # ‖g‖ per root row
    norm_h: float  # ‖h‖ per root row
    c: float  # ⟨g,h⟩ / ⟨h,h⟩ (Eq. 7)
    angle: float  # α in radians (Eq. 15)
    centred_angle: float  # of g and h minus their means, in radians; NaN where one is constant
    agreement: float  # share of rows with the same largest class
    spread: float  # root mean square distance of g from its mean
    balance: tuple[float, ...]  # share of rows whose largest class is each one, for g

    @property
    def constant_angle(self) -> float:
        """Angle between g and the best constant, in radians: what a student begins with."""
        return math.atan2(self.spread, math.sqrt(max(self.norm_g**2 - self.spread**2, 0.0)))

    @property
    def agreement_share(self) -> Share:
        """The agreement with its interval."""
        return count_share(round(self.agreement * self.rows), self.rows)


def compute_projection(g: np.ndarray, h: np.ndarray) -> Projection:
    """Compare g and h, probabilities of shape (N, K), in float64; TrainingError if N is 0."""
    n = len(g)
    if n == 0:
        raise TrainingError("no rows to compare teacher and student on")
    g, h = g.astype(np.float64), h.astype(np.float64)
    gg, hh, gh = (float((left * right).sum()) for left, right in ((g, g), (h, h), (g, h)))
    mean_g, mean_h = g.mean(axis=0), h.mean(axis=0)
    var_g, var_h = _variance(gg / n, mean_g), _variance(hh / n, mean_h)
    top = g.argmax(axis=1)
    return Projection(
        rows=n,
        norm_g=math.sqrt(gg / n),
        norm_h=math.sqrt(hh / n),
        c=gh / hh,
        angle=_angle(gh, gg, hh),
        centred_angle=_angle(gh / n - float(mean_g @ mean_h), var_g, var_h),
        agreement=float((top == h.argmax(axis=1)).mean()),
        spread=math.sqrt(var_g),
        balance=tuple((np.bincount(top, minlength=g.shape[1]) / n).tolist()),
    )


def _variance(square: float, mean: np.ndarray) -> float:
    """Return the mean square about the mean, 0 where it is no more than rounding."""
    variance = square - float(mean @ mean)
    return variance if variance > 1e-12 * square else 0.0


def _angle(inner: float, left: float, right: float) -> float:
    if left <= 0.0 or right <= 0.0:
        return math.nan
    return math.acos(min(1.0, max(-1.0, inner / math.sqrt(left * right))))


@dataclass(frozen=True)
class Scores:
    """Accuracy, mean F1 and speed, tokenizer included, of one set of answers.

    ``classes`` holds precision, recall, F1 and rows by class name; a class without a right or
    given answer has F1 0.
    """

    accuracy: float
    macro_f1: float
    classes: dict[str, dict[str, float]]
    texts_per_second: float


@dataclass(frozen=True)
class Confidence:
    """How far a student's probabilities mean what they say, and the teacher's against the labels.

    ``temperature`` is what the student's last layer was divided by, None where nothing is known.
    """

    temperature: float | None = None
    against_labels: CalibrationErrors | None = None
    against_teacher: CalibrationErrors | None = None
    teacher_ece: float | None = None


@dataclass(frozen=True)
class Selection:
    """What is left of the answers above a threshold."""

    threshold: float  # least probability of the most probable class that makes a tag
    coverage: float  # share of texts that get a tag
    accuracy: float | None  # among them; None where there are none


def compute_scores(
    gold: np.ndarray, given: np.ndarray, names: Sequence[str], texts_per_second: float
) -> Scores:
    """Compute the scores of answered columns against the right ones, both of shape (N,), int."""
    classes = {}
    for column, name in enumerate(names):
        right = int(((gold == column) & (given == column)).sum())
        called, there = int((given == column).sum()), int((gold == column).sum())
        classes[name] = {
            "precision": right / called if called else 0.0,
            "recall": right / there if there else 0.0,
            "f1": 2 * right / (called + there) if called + there else 0.0,
            "rows": there,
        }
    return Scores(
        accuracy=float((gold == given).mean()),
        macro_f1=float(np.mean([figures["f1"] for figures in classes.values()])),
        classes=classes,
        texts_per_second=texts_per_second,
    )


def select(probabilities: np.ndarray, gold: np.ndarray, threshold: float) -> Selection:
    """Measure what is left of probabilities, shape (N, K), above a threshold in [0, 1].

    ``gold`` are the right columns, shape (N,), int.
    """
    tagged = probabilities.max(axis=1).astype(np.float64) >= threshold
    right = probabilities.argmax(axis=1) == gold
    accuracy = float(right[tagged].mean()) if tagged.any() else None
    return Selection(threshold, float(tagged.mean()), accuracy)
