"""The projection of the teacher onto the student: inner products, c and angles.

g and h are functions with values in the probability simplex of K classes, known on n rows.  Their
inner product is the sum over rows and classes; norms are divided by the root of the rows, so that
they do not grow with n (paper, Eqs. 6, 7 and 15).
"""

import math
from dataclasses import dataclass

import numpy as np

from stages.errors import TrainingError
from stages.metrics.intervals import Share, count_share

DOUBTFUL_ANGLE = 0.2
"""Radians between the teacher and a constant: as near as many trained students come."""


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
