from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.metrics.projection import Projection, compute_projection
from stages.student.loop import CURVE, describe_point, format_curve, make_point


@pytest.fixture
def found() -> Projection:
    teacher = np.array([[0.9, 0.1], [0.2, 0.8]])
    return compute_projection(teacher, np.array([[0.7, 0.3], [0.4, 0.6]]))


def test_a_point_has_every_column_of_the_curve(found: Projection) -> None:
    assert tuple(make_point(3, 0.5, None, found)) == CURVE


def test_a_curve_can_be_read_again(found: Projection) -> None:
    points = [make_point(step, 0.25 * step, torch.tensor(2.0), found) for step in (10, 1_234_567)]
    rows = list(csv.DictReader(io.StringIO(format_curve(points))))
    assert [row["step"] for row in rows] == ["10", "1234567"]
    for row, point in zip(rows, points, strict=True):
        for name in CURVE[1:]:
            assert float(row[name]) == pytest.approx(point[name], rel=1e-5)


def test_what_does_not_apply_stays_empty_and_unsaid(found: Projection) -> None:
    point = make_point(1, 0.5, None, replace(found, centred_angle=math.nan))
    (row,) = csv.DictReader(io.StringIO(format_curve([point])))
    assert row["c_learned"] == row["centred_angle"] == ""
    assert "learned" not in describe_point(point)
    assert "c 2.000 learned" in describe_point(make_point(1, 0.5, torch.tensor(2.0), found))
