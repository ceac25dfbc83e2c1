"""The report's figures, drawn by matplotlib: as files, and as SVG that follows a page's colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from stages.errors import ReportError
from stages.report.collect import Findings
from stages.report.lists import ESTIMATES, correlate
from stages.report.runs import Group, Run, is_number, name_approach

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "pip install -c constraints.txt -e '.[report]'"

PAPER, INK, MUTED, GRID = "#ffffff", "#1b1f24", "#59636e", "#d1d9e0"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b08800", "#7f6ee0")
"""Told apart with any kind of colour vision (Okabe and Ito), yellow darkened."""

VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}
"""What each colour is called in the page's style."""

CURVES = (
    ("coefficient c", (("c_learned", "learned"), ("c_closed_form", "closed form"))),
    ("norm per √row", (("norm_g", "‖g‖"), ("norm_h", "‖h‖"))),
    ("angle in radians", (("angle", "α"), ("centred_angle", "centred α"))),
)
"""Panels: label of the axis, and the columns of the curve."""

POINTS = {
    "direct": "direct training",
    "texts": "training texts",
    "self": "self-generated texts",
    "self-labelled": "self-generated texts, labelled",
    "algorithm-1": "Algorithm 1",
    "projection": "projection",
}
"""Short names of the approaches, in the order of colours and markers."""

STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "figure",
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    # Names of tasks are no formulas.
    "text.parse_math": False,
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
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


def import_matplotlib() -> Any:
    """Import matplotlib.

    Raises:
        ReportError: It is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise ReportError(f"figures need the package matplotlib: {INSTALL}") from error
    return matplotlib


def draw_curves(found: Findings, task: str) -> Figure | None:
    """Draw c, norms and angles against steps (the paper's Figure 2).

    The paper's recipe to the letter stands on the left, on the right that recipe without text
    which has the most students.

    Returns:
        The figure; None where no student without text has a curve.
    """
    sides = [_choose_side(found, task, name) for name in ("algorithm-1", "projection")]
    shown = [runs for runs in sides if runs]
    if not shown:
        return None
    with _styled():
        figure = _make_figure(3.7 * len(shown), 5.8)
        panels = figure.subplots(len(CURVES), len(shown), squeeze=False, sharex="col", sharey="row")
        for column, runs in enumerate(shown):
            for panel, (label, series) in zip(panels[:, column], CURVES, strict=True):
                for number, (key, name) in enumerate(series):
                    _draw_lines(panel, runs, key, name, SERIES[number])
                if column == 0:
                    panel.set_ylabel(label)
                if panel.lines:
                    panel.legend(loc="best")
            panels[0, column].set_title(_name_recipe(runs[0]))
            panels[-1, column].set_xlabel("optimiser steps")
        figure.align_ylabels()
        _freeze(figure)
    return figure


def draw_estimates(found: Findings) -> Figure | None:
    """Draw what is known without text against accuracy on the test texts, a row for each task."""
    drawn = {
        task: [[run for run in found.runs if run.task == task and _is_point(run, estimate)]
               for estimate, _ in ESTIMATES]
        for task in found.tasks
    }  # fmt: skip
    drawn = {task: sides for task, sides in drawn.items() if max(map(len, sides)) > 1}
    if not drawn:
        return None
    with _styled():
        figure = _make_figure(7.4, 2.6 * len(drawn) + 0.5)
        panels = figure.subplots(len(drawn), len(ESTIMATES), squeeze=False, sharey="row")
        legend: dict[str, Any] = {}
        for row, (task, sides) in zip(panels, drawn.items(), strict=True):
            for panel, runs, (estimate, name) in zip(row, sides, ESTIMATES, strict=True):
                for number, (approach, short) in enumerate(POINTS.items()):
                    own = [run for run in runs if run.approach == approach]
                    if own:
                        legend[short] = panel.scatter(
                            [100 * getattr(run, estimate) for run in own],
                            [100 * (run.score("accuracy") or 0.0) for run in own],
                            s=26,
                            color=SERIES[number],
                            marker="osD^vP"[number],
                        )
                rank = correlate(runs, estimate, "accuracy")
                panel.set_title(f"{task}{'' if rank is None else f', ρ = {rank[0]:.2f}'}")
                panel.set_xlabel(f"agreement on {name}, %")
            row[0].set_ylabel("accuracy on test texts, %")
        order = [short for short in POINTS.values() if short in legend]
        figure.legend(
            [legend[short] for short in order], order, loc="outside lower center", ncols=len(order)
        )
        _freeze(figure)
    return figure


def save_figure(figure: Figure, kind: str) -> bytes:
    """Return a figure as ``png`` or ``svg``, the same bytes for the same figure."""
    out = io.BytesIO()
    dated: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with _styled():
        figure.savefig(out, format=kind, dpi=144, metadata=dated)
    return out.getvalue()


def embed_figure(drawing: str, name: str, title: str) -> str:
    """Return an SVG within a page: its colours are the page's, its ids its own.

    Args:
        drawing: What :func:`save_figure` wrote.
        name: Put in front of every id; letters, digits and ``-``.
        title: What it shows, for those who do not see it.
    """
    text = drawing[drawing.index("<svg") :].replace(f"fill: {PAPER}", "fill: none")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    # The page's own font; sizes stay.
    text = re.sub(r"font: ([^;\"']*?)([\d.]+px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", text)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


@contextmanager
def _styled() -> Iterator[None]:
    with import_matplotlib().rc_context(dict(STYLE)), warnings.catch_warnings():
        # Of a task's name in another script: SVG keeps it as text, PNG shows a box for a letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _make_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    figure: Figure = import_matplotlib().figure.Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", h_pad=0.08)
    return figure


def _freeze(figure: Figure) -> None:
    """Lay a figure out once, not each time that it is written."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _choose_side(found: Findings, task: str, approach: str) -> list[Run]:
    """Return the students with curves of the recipe of an approach that has the most of them."""
    groups: list[Group] = [group for group in found.groups if group.approach == approach]
    sides = [[run for run in g.runs.get(task, ()) if run.record.get("curve")] for g in groups]
    return max(sides, key=len, default=[])


def _name_recipe(run: Run) -> str:
    objective = run.training.get("objective")
    told = f", {objective}" if objective and run.approach == "projection" else ""
    return f"{name_approach(run).removesuffix(', no text')}{told}"


def _is_point(run: Run, estimate: str) -> bool:
    return getattr(run, estimate) is not None and run.score("accuracy") is not None


def _draw_lines(panel: Any, runs: Sequence[Run], key: str, name: str, colour: str) -> None:
    label: str | None = name
    for run in runs:
        points = [(row["step"], row[key]) for row in run.record["curve"] if is_number(row.get(key))]
        if points:
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) == 1 else None
            panel.plot(steps, values, color=colour, alpha=0.85, label=label, marker=marker)
            label = None
