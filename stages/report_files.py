"""Writing a report: the page, Markdown, tables and figures, all of them or none."""

from __future__ import annotations

import os
import re
import shutil
from html import escape
from pathlib import Path

from stages.errors import ReportError
from stages.figures import draw_curves, draw_estimates, embed_figure, import_matplotlib, save_figure
from stages.report import Findings
from stages.report_page import write_markdown, write_page
from stages.report_tables import list_tables

PAGE = "report.html"


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
    """
    import_matplotlib()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / PAGE).is_file())):
        raise ReportError(f"{out} holds something else than a report; name another --out")
    tables = list_tables(found)
    drawn = {
        f"curves-{_name_file(task)}": (
            draw_curves([run for run in found.runs if run.task == task]),
            f"{task}: coefficient, norms and angles against steps; a line for each seed. The angle "
            "of a student to a teacher that hardly varies is small whatever it has learned; the "
            "centred angle is not.",
        )
        for task in found.tasks
    }
    drawn["estimates"] = (
        draw_estimates(found),
        "What can be measured without any text against what is true of the test texts; a point for "
        "each student.",
    )
    shown = {name: (figure, text) for name, (figure, text) in drawn.items() if figure is not None}
    embedded = {
        name: (embed_figure(figure, name, escape(text, quote=True)), text)
        for name, (figure, text) in shown.items()
    }
    files: dict[str, bytes] = {
        PAGE: write_page(title, found, tables, embedded).encode(),
        "report.md": write_markdown(title, found, tables, embedded).encode(),
    }
    files |= {f"tables/{table.key}.csv": table.to_csv().encode() for table in tables}
    for name, (figure, _) in shown.items():
        for kind in ("png", "svg"):
            files[f"figures/{name}.{kind}"] = save_figure(figure, kind)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        for name, data in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [out / name for name in files]


def _name_file(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", text)
