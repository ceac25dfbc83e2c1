"""The projection of the teacher onto the student: inner products, c and angles.

g and h are functions with values in the probability simplex of K classes, known on n rows.  Their
inner product is the sum over rows and classes; norms are divided by the root of the rows, so that
they do not grow with n (paper, Eqs. 6, 7 and 15).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stages.errors import TrainingError
from stages.metrics.intervals import Share, count_share

DOUBTFUL_ANGLE = 0.2
"""Radians between the teacher and a constant: as near as many trained students come."""


@dataclass(frozen=True)
class Projection:
    """What two functions on the same rows have to do with each other.

    Attributes:
        rows: Rows that the sums run over.
        norm_g: ‖g‖ per root row.
        norm_h: ‖h‖ per root row.
        c: The closed form ⟨g,h⟩ / ⟨h,h⟩ (Eq. 7).
        angle: α in radians (Eq. 15).
        centred_angle: The angle of both functions minus their means over the rows, in radians;
            NaN where one of them is constant.
        agreement: Share of rows with the same largest class.
        spread: Root mean square distance of g from its mean.
        balance: Share of rows whose largest class is each one, for g.
    """

    rows: int
    norm_g: float
    norm_h: float
    c: float
    angle: float
    centred_angle: float
    agreement: float
    spread: float
    balance: tuple[float, ...]

    @property
    def constant_angle(self) -> float:
        """Angle between g and the best constant, in radians: what a student begins with."""
        return math.atan2(self.spread, math.sqrt(max(self.norm_g**2 - self.spread**2, 0.0)))

    @property
    def agreement_share(self) -> Share:
        """The agreement with its interval."""
        return count_share(round(self.agreement * self.rows), self.rows)


class ProjectionMeter:
    """Adds the sums of a :class:`Projection` up over batches, in float64."""

    def __init__(self, classes: int) -> None:
        self._rows = 0
        self._agree = 0
        self._gg = self._hh = self._gh = 0.0
        self._sum_g = torch.zeros(classes, dtype=torch.float64)
        self._sum_h = torch.zeros(classes, dtype=torch.float64)
        self._votes = torch.zeros(classes, dtype=torch.int64)

    def update(self, g: torch.Tensor, h: torch.Tensor) -> None:
        """Add a batch of values.

        Args:
            g: The teacher's probabilities, shape (B, K).
            h: The student's probabilities, shape (B, K).
        """
        g, h = g.detach().double().cpu(), h.detach().double().cpu()
        self._rows += len(g)
        self._gg += float((g * g).sum())
        self._hh += float((h * h).sum())
        self._gh += float((g * h).sum())
        self._sum_g += g.sum(dim=0)
        self._sum_h += h.sum(dim=0)
        top = g.argmax(dim=1)
        self._agree += int((top == h.argmax(dim=1)).sum())
        self._votes += torch.bincount(top, minlength=len(self._votes))

    def compute(self) -> Projection:
        """Return the figures of everything added so far.

        Raises:
            TrainingError: Nothing was added.
        """
        n = self._rows
        if n == 0:
            raise TrainingError("no rows to compare teacher and student on")
        mean_g, mean_h = self._sum_g / n, self._sum_h / n
        var_g = _variance(self._gg / n, mean_g)
        var_h = _variance(self._hh / n, mean_h)
        covariance = self._gh / n - float(mean_g @ mean_h)
        return Projection(
            rows=n,
            norm_g=math.sqrt(self._gg / n),
            norm_h=math.sqrt(self._hh / n),
            c=self._gh / self._hh,
            angle=_angle(self._gh, self._gg, self._hh),
            centred_angle=_angle(covariance, var_g, var_h),
            agreement=self._agree / n,
            spread=math.sqrt(var_g),
            balance=tuple((self._votes.double() / n).tolist()),
        )


def _variance(square: float, mean: torch.Tensor) -> float:
    """Return the mean square about the mean, 0 where it is no more than rounding."""
    variance = square - float(mean @ mean)
    return variance if variance > 1e-12 * square else 0.0


def _angle(inner: float, left: float, right: float) -> float:
    if left <= 0.0 or right <= 0.0:
        return math.nan
    return math.acos(min(1.0, max(-1.0, inner / math.sqrt(left * right))))
