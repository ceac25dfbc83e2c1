"""Writing a report: the page, Markdown, tables and figures, all of them or none."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import ReportError
from stages.report.collect import Findings
from stages.report.figures import (
    draw_curves,
    draw_estimates,
    embed_figure,
    import_matplotlib,
    save_figure,
)
from stages.report.lists import tabulate_caches, tabulate_estimates, tabulate_students
from stages.report.page import Shown, write_markdown, write_page
from stages.report.tables import tabulate_accuracy, tabulate_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
OWN = frozenset((PAGE, "report.md", "tables", "figures"))
"""What a report's directory holds."""

LONGEST_NAME = 80


def write_report(found: Findings, title: str, out: Path) -> list[Path]:
    """Write a report into a directory, in place of an earlier one.

    Args:
        found: What it is about.
        title: Its title.
        out: The directory.

    Returns:
        The files.

    Raises:
        ReportError: matplotlib is missing, or the directory holds something else than a report.
        OSError: The directory cannot be written.
    """
    import_matplotlib()
    _check_place(out)
    figures = _draw_figures(found)
    tables = [
        table
        for tabulate in (tabulate_accuracy, tabulate_cost, tabulate_estimates, tabulate_students,
                         tabulate_caches)
        if (table := tabulate(found)).rows
    ]  # fmt: skip
    drawings = {
        (name, kind): save_figure(figure, kind)
        for name, (figure, _) in figures.items()
        for kind in ("png", "svg")
    }
    shown = [
        Shown(name, text, embed_figure(drawings[name, "svg"].decode(), name, text))
        for name, (_, text) in figures.items()
    ]
    files: dict[str, bytes] = {
        PAGE: write_page(title, found, tables, shown).encode("utf-8", "replace"),
        "report.md": write_markdown(title, found, tables, shown).encode("utf-8", "replace"),
    }
    for table in tables:
        files[f"tables/{table.key}.csv"] = table.to_csv().encode("utf-8", "replace")
    for (name, kind), drawing in drawings.items():
        files[f"figures/{name}.{kind}"] = drawing
    place = out.resolve()
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    former = place.with_name(f".{place.name}.{os.getpid()}.former")
    try:
        for name, data in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
        if place.exists():
            place.replace(former)
        partial.replace(place)
    finally:
        if former.exists() and not place.exists():
            former.replace(place)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
    return [out / name for name in files]


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ReportError(f"{out} is a file; name a directory with --out")
    there = sorted(path.name for path in out.iterdir()) if out.exists() else []
    foreign = next((name for name in there if name not in OWN), None)
    if there and (foreign is not None or PAGE not in there):
        raise ReportError(
            f"{out} holds something else than a report: {foreign or there[0]}; name another --out"
        )


def _draw_figures(found: Findings) -> dict[str, tuple[Figure, str]]:
    """Return the figures that there is something for, each with its caption, by name."""
    drawn = {}
    for task, name in zip(found.tasks, _name_files(found.tasks), strict=True):
        text = (
            f"{task}: coefficient c, norms and angles against steps; a line for each seed. To a "
            "teacher that hardly varies every student's α is small, whatever it has learned; "
            "the centred α is not."
        )
        drawn[f"curves-{name}"] = draw_curves(found, task), text
    drawn["estimates"] = (
        draw_estimates(found),
        "What is known without any text against the accuracy on the labelled test texts: a point "
        "for each student, ρ is Spearman's rank correlation.",
    )
    return {name: (figure, text) for name, (figure, text) in drawn.items() if figure is not None}


def _name_files(tasks: Iterable[str]) -> list[str]:
    """Return a name for each task that any file system takes, each another one."""
    names: list[str] = []
    for task in tasks:
        plain = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:LONGEST_NAME] or "task"
        tries = itertools.chain([plain], (f"{plain}-{count}" for count in itertools.count(2)))
        names.append(next(name for name in tries if name not in names))
    return names
