"""The curve of a training: what was measured on the held-out rows, step by step."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable

import torch

from stages.metrics import Projection

Point = dict[str, float | None]
"""A value for each of the columns; None where a column does not apply to the objective."""

MEASURED = ("centred_angle", "agreement", "angle", "norm_g", "norm_h")
CURVE = ("step", "loss", *MEASURED, "c_learned", "c_closed_form")
"""Columns of the curve; angles in radians, norms per root row."""


def make_point(step: int, loss: float, c: torch.Tensor | None, found: Projection) -> Point:
    """Return one point of the curve; ``loss`` is the mean over the steps since the last one."""
    learned = None if c is None else c.item()
    values = (float(step), loss, *(getattr(found, name) for name in MEASURED), learned, found.c)
    return dict(zip(CURVE, values, strict=True))


def describe_point(point: Point) -> str:
    """Say one point in a line of the log."""
    learned = "" if point["c_learned"] is None else f"c {point['c_learned']:.3f} learned, "
    return (
        f"step {point['step']:,.0f}: loss {point['loss']:.4f}, "
        f"agreement {point['agreement']:.1%}, centred α {point['centred_angle']:.3f}, "
        f"α {point['angle']:.3f}, {learned}c* {point['c_closed_form']:.3f}, "
        f"‖g‖ {point['norm_g']:.3f}, ‖h‖ {point['norm_h']:.3f}"
    )


def format_curve(points: Iterable[Point]) -> str:
    """Format a curve as CSV with the columns :data:`CURVE`; what does not apply stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CURVE, lineterminator="\n")
    writer.writeheader()
    for point in points:
        known = {key: value for key, value in point.items() if value is not None}
        cells = {key: f"{value:.6g}" for key, value in known.items() if not math.isnan(value)}
        writer.writerow(cells | {"step": f"{known['step']:.0f}"})
    return text.getvalue()
