"""Numbers that judge answers: angles, agreement, accuracy, calibration, intervals.

Gives pure functions and dataclasses over arrays of probabilities.  Knows neither models nor files.
"""

from stages.metrics.calibration import (
    COLDEST,
    HOTTEST,
    Calibration,
    CalibrationErrors,
    calibrate,
    expected_calibration_error,
    measure_calibration,
    measured_rows,
)
from stages.metrics.intervals import Share, count_share, read_share
from stages.metrics.prior import CONTENT, RARE, Prior, average_answers, fit_prior, read_prior
from stages.metrics.projection import DOUBTFUL_ANGLE, Projection, compute_projection
from stages.metrics.scores import Confidence, Scores, Selection, compute_scores, select
