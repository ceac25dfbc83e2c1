"""Probabilities that mean what they say: a student's temperature, and how far they are off.

A temperature T divides a student's logits, the same for every input and class, so that no answer
changes and its probabilities come closest to the teacher's.
"""

from dataclasses import dataclass

import numpy as np

from stages.errors import TrainingError
from stages.metrics.prior import softmax

BINS = 15
"""Bins of equal width, over [0, 1], of the expected calibration error."""

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature."""


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does."""

    temperature: float  # what the student's logits are divided by
    rows: int  # held-out ones that it was fitted on
    ece_before: float  # expected calibration error against the teacher at T = 1
    ece_after: float  # the same at the temperature
    measured_rows: int  # that both were measured on, none of those of the fit
    folded: bool = False  # whether the written student's last layer is divided by it

    @property
    def at_bound(self) -> bool:
        """Whether the best temperature lies outside of what is allowed."""
        return not COLDEST * 1.001 < self.temperature < HOTTEST * 0.999


@dataclass(frozen=True)
class CalibrationErrors:
    """Expected calibration errors on so many rows.

    ``ece_before`` is with the temperature undone, None where none is known to be in the student.
    """

    ece_before: float | None
    ece_after: float
    rows: int


def calibrate(logits: np.ndarray, teacher: np.ndarray) -> Calibration:
    """Fit a temperature on every other row and measure what it does on the rest.

    The student's logits and the teacher's probabilities have shape (N, K).  Raises TrainingError
    where there are fewer than two rows, or a logit is NaN or infinite.
    """
    if len(logits) < 2:
        raise TrainingError("calibration: got one row, must be one to fit on and one to try")
    if not np.isfinite(logits).all():
        raise TrainingError("calibration: the student's logits are NaN or infinite")
    rest = measured_rows(len(logits))
    temperature = fit_temperature(logits[::2], teacher[::2])
    plain, true = logits[rest].astype(np.float64), teacher[rest]
    before, after = (
        expected_calibration_error(softmax(each), true) for each in (plain, plain / temperature)
    )
    return Calibration(temperature, len(logits[::2]), before, after, len(true))


def measured_rows(rows: int) -> np.ndarray:
    """Return which of the held-out rows no temperature was fitted on, in the order of reading."""
    return np.arange(1, rows, 2)


def fit_temperature(logits: np.ndarray, teacher: np.ndarray) -> float:
    """Find the T that makes the mean KL(g ‖ softmax(z/T)) smallest, for z and g of shape (N, K).

    The divergence is convex in 1/T and its derivative is known, so halving an interval finds the
    one minimum, whatever the start.  It is 1 where T makes no difference.
    """
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    if not z.any():
        return 1.0
    g = teacher / teacher.sum(axis=1, keepdims=True, dtype=np.float64)
    wanted = (g * z).sum(axis=1).mean()
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(64):  # more than float64 tells apart
        middle = (low + high) / 2
        # The derivative of the mean divergence by 1/T; it rises with 1/T.
        if (softmax(middle * z) * z).sum(axis=1).mean() < wanted:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Compute how far confidence and outcome are apart, in [0, 1], on average over the rows.

    Rows are put into :data:`BINS` bins by the probability of their most probable class; a bin
    counts by its share of the rows and with the distance of its mean probability from its mean
    outcome.  The truth is the right columns, shape (N,), int: the outcome is whether the most
    probable class is right.  Or it is probabilities of another, shape (N, K): it is theirs of that
    class.  Raises TrainingError where there are no rows, or not as many of both.
    """
    if len(probabilities) == 0 or len(probabilities) != len(truth):
        raise TrainingError(
            f"calibration: got {len(probabilities)} answers and {len(truth)} true ones, must be "
            "as many, and at least one"
        )
    given = probabilities.argmax(axis=1)
    rows = np.arange(len(given))
    confidence = probabilities[rows, given].astype(np.float64)
    outcome = truth[rows, given].astype(np.float64) if truth.ndim == 2 else given == truth
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - outcome, minlength=BINS)
    return float(np.abs(gaps).sum() / len(given))


def measure_calibration(
    probabilities: np.ndarray, truth: np.ndarray, temperature: float | None
) -> CalibrationErrors:
    """Measure expected calibration errors with a temperature and without it.

    The temperature is what is in these probabilities, shape (N, K), None where nothing is known;
    truth and errors are as for :func:`expected_calibration_error`.
    """
    before = None
    if temperature is not None:
        plain = undo_temperature(probabilities, temperature)
        before = expected_calibration_error(plain, truth)
    return CalibrationErrors(before, expected_calibration_error(probabilities, truth), len(truth))


def undo_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(z) for softmax(z/T), shape (N, K); what has become 0 stays 0."""
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities.astype(np.float64))
    return softmax(temperature * logs)
