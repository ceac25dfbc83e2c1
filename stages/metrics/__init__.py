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
from stages.metrics.prior import Prior, average_answers, fit_prior, read_prior
from stages.metrics.scores import (
    DOUBTFUL_ANGLE,
    Confidence,
    Projection,
    Scores,
    Selection,
    Share,
    compute_projection,
    compute_scores,
    count_share,
    read_share,
    select,
)
