"""Numbers that judge answers: angles, agreement, accuracy, calibration, intervals.

Gives pure functions and dataclasses over arrays of probabilities.  Knows neither models nor files.
"""

from stages.metrics.calibration import (
    COLDEST,
    HOTTEST,
    Calibration,
    calibrate,
    expected_calibration_error,
    find_temperature,
    measured_rows,
    read_temperature,
)
from stages.metrics.intervals import Share, count_share, read_share
from stages.metrics.projection import DOUBTFUL_ANGLE, Projection, ProjectionMeter
from stages.metrics.ranks import correlate_ranks
from stages.metrics.scores import (
    CalibrationErrors,
    Confidence,
    Scores,
    Selection,
    compute_scores,
    measure_calibration,
    select,
)

__all__ = [
    "COLDEST",
    "DOUBTFUL_ANGLE",
    "HOTTEST",
    "Calibration",
    "CalibrationErrors",
    "Confidence",
    "Projection",
    "ProjectionMeter",
    "Scores",
    "Selection",
    "Share",
    "calibrate",
    "compute_scores",
    "correlate_ranks",
    "count_share",
    "expected_calibration_error",
    "find_temperature",
    "measure_calibration",
    "measured_rows",
    "read_share",
    "read_temperature",
    "select",
]
