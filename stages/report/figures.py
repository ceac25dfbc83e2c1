"""The report's figures, drawn by matplotlib."""

import base64
import io
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from stages.report.collect import Findings

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b08800", "#7f6ee0")
"""Told apart with any kind of colour vision (Okabe and Ito), yellow darkened."""

PANELS = {
    "coefficient c": {"c_learned": "learned", "c_closed_form": "closed form"},
    "norm per √row": {"norm_g": "‖g‖", "norm_h": "‖h‖"},
    "angle in radians": {"centred_angle": "centred α", "angle": "α"},
}
"""Columns of a student's curve and their names, by the label of the axis."""


class Drawing(NamedTuple):
    """A figure: its file's name, the task of its curves, and the file."""

    name: str
    task: str
    svg: bytes

    @property
    def embedded(self) -> str:
        """The address of the SVG within a page that holds it."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


def draw_figures(found: Findings) -> list[Drawing]:
    """Draw the curves of each task, where there are any."""
    drawn: dict[str, Drawing] = {}
    style = Path(__file__).with_name("report.mplstyle")
    with matplotlib.style.context(style), warnings.catch_warnings():
        # Of a task's name in another script: SVG keeps it as text, PNG shows a box for a letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for task in found.tasks:
            name = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:80] or "task"
            while f"curves-{name}" in drawn:
                name += "-2"
            if (figure := _draw_curves(found, task)) is not None:
                drawn[f"curves-{name}"] = Drawing(f"curves-{name}", task, _save(figure))
    return list(drawn.values())


def _save(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    figure.savefig(out := io.BytesIO(), format="svg", metadata={"Date": None})
    return out.getvalue()


def _draw_curves(found: Findings, task: str) -> Figure | None:
    """Draw c, norms and angles against steps (the paper's Figure 2), a line for each seed.

    The paper's recipe to the letter stands on the left, on the right that recipe without text
    which has the most students.
    """
    shown = []
    for approach in ("algorithm-1", "projection"):
        groups = [group.runs.get(task, ()) for group in found.groups if group.approach == approach]
        curves = [[run for run in runs if run.curve] for runs in groups]
        shown += [runs for runs in [max(curves, key=len, default=[])] if runs]
    if not shown:
        return None
    figure = Figure((3.7 * len(shown), 5.8), layout="constrained")
    axes = figure.subplots(len(PANELS), len(shown), squeeze=False, sharex="col", sharey="row")
    for panel, label in zip(axes[:, 0], PANELS, strict=True):
        panel.set_ylabel(label)
    for column, runs in zip(axes.T, shown, strict=True):
        column[0].set_title(runs[0].recipe)
        column[-1].set_xlabel("optimiser steps")
        for panel, series in zip(column, PANELS.values(), strict=True):
            for colour, (key, name) in zip(SERIES, series.items(), strict=False):
                # An empty row parts the lines.
                rows = [row for run in runs for row in (*(run.curve or ()), {})]
                points = np.array([(row.get("step"), row.get(key)) for row in rows], dtype=float)
                if np.isfinite(points).all(axis=1).any():
                    panel.plot(*points.T, color=colour, alpha=0.85, label=name)
                    panel.legend(loc="best")
    figure.align_ylabels()
    return figure
