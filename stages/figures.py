"""The report's figures, drawn by matplotlib: as files, and as SVG that follows a page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.errors import ReportError
from stages.report import APPROACHES, Findings, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "pip install -c constraints.txt -e '.[report]'"

INK, MUTED, GRID = "#1b1f24", "#59636e", "#d1d9e0"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b08800", "#7f6ee0")
"""Told apart with any kind of colour vision (Okabe and Ito), yellow darkened."""

VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}
"""What each colour is called in the page's style."""

CURVES = (
    ("c", "coefficient c", (("c_learned", "learned"), ("c_closed_form", "closed form"))),
    ("norm", "norm per √row", (("norm_g", "‖g‖"), ("norm_h", "‖h‖"))),
    ("angle", "angle in radians", (("angle", "α"), ("centred_angle", "centred α"))),
)
"""Panels: key, label of the axis, and the columns of the curve."""


def import_matplotlib() -> Any:
    """Import matplotlib with the settings of all figures.

    Raises:
        ReportError: It is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise ReportError(f"figures need the package matplotlib: {INSTALL}") from error
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "figure",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.edgecolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "grid.color": GRID,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
    }
    matplotlib.rcParams.update(style)
    return matplotlib


def draw_curves(runs: Sequence[Run]) -> Figure | None:
    """Draw c, norms and angles against steps (the paper's Figure 2).

    Runs of the paper to the letter stand on the left, the others without text on the right.

    Args:
        runs: The students of one task.

    Returns:
        The figure; None where no run without text has a curve.
    """
    matplotlib = import_matplotlib()
    sides = [
        [run for run in runs if run.approach == approach and run.record.get("curve")]
        for approach in ("algorithm-1", "projection")
    ]
    titles = [APPROACHES["algorithm-1"], _name_recipe(sides[1])]
    shown = [(title, side) for title, side in zip(titles, sides, strict=True) if side]
    if not shown:
        return None
    figure: Figure = matplotlib.figure.Figure(figsize=(3.9 * len(shown), 6.6), layout="constrained")
    panels = figure.subplots(len(CURVES), len(shown), squeeze=False, sharex="col", sharey="row")
    for column, (title, side) in enumerate(shown):
        for row, (_, label, series) in enumerate(CURVES):
            panel = panels[row][column]
            for number, (key, name) in enumerate(series):
                _draw_lines(panel, side, key, name, SERIES[number])
            if row == 0:
                panel.set_title(title)
            if row == len(CURVES) - 1:
                panel.set_xlabel("optimiser steps")
            if column == 0:
                panel.set_ylabel(label)
            if panel.lines:
                panel.legend(loc="best")
    return figure


def draw_estimates(found: Findings) -> Figure | None:
    """Draw agreement on the teacher's own texts against accuracy on real ones, a panel a task."""
    matplotlib = import_matplotlib()
    known = {
        task: [
            run
            for run in found.runs
            if run.task == task and run.own is not None and run.score("accuracy") is not None
        ]
        for task in found.tasks
    }
    tasks = [task for task, runs in known.items() if len(runs) > 1]
    if not tasks:
        return None
    figure: Figure = matplotlib.figure.Figure(figsize=(3.4 * len(tasks), 3.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        for number, approach in enumerate(APPROACHES):
            runs = [run for run in known[task] if run.approach == approach]
            if not runs:
                continue
            panel.scatter(
                [100 * (run.own or 0) for run in runs],
                [100 * (run.score("accuracy") or 0) for run in runs],
                s=26,
                color=SERIES[number],
                marker="osD^vP"[number],
                label=approach,
            )
        panel.set_title(task)
        panel.set_xlabel("agreement on own texts, %")
    panels[0].set_ylabel("accuracy on the test texts, %")
    panels[0].legend(loc="best", fontsize=8)
    return figure


def save_figure(figure: Figure, kind: str) -> bytes:
    """Return a figure as ``png`` or ``svg``, the same bytes for the same figure."""
    out = io.BytesIO()
    dated: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(out, format=kind, dpi=144, metadata=dated)
    return out.getvalue()


def embed_figure(figure: Figure, name: str, title: str) -> str:
    """Return a figure as SVG within a page: its colours are the page's, its ids its own.

    Args:
        figure: The figure.
        name: Put in front of every id; letters, digits and ``-``.
        title: What it shows, for those who do not see it; already escaped.
    """
    background = figure.patch.get_alpha()
    figure.patch.set_alpha(0.0)
    for panel in figure.axes:
        panel.patch.set_alpha(0.0)
    text = save_figure(figure, "svg").decode()
    figure.patch.set_alpha(background)
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    # The page's own font; sizes stay.
    text = re.sub(r"font: ([^;\"']*?)([\d.]+px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", text)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _name_recipe(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(
        f"{run.record.get('sampler', '?')} inputs, {run.training.get('objective', '?')}"
        for run in runs
    )
    return "projection, " + "; ".join(names) if names else ""


def _draw_lines(panel: Any, runs: Sequence[Run], key: str, name: str, colour: str) -> None:
    label: str | None = name
    for run in runs:
        points = [
            (row["step"], row[key])
            for row in run.record["curve"]
            if isinstance(row.get(key), int | float) and row[key] == row[key]
        ]
        if points:
            steps, values = zip(*points, strict=True)
            panel.plot(steps, values, color=colour, alpha=0.85, label=label)
            label = None
