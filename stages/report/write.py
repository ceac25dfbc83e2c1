"""Writing a report: the page, Markdown, tables and figures, all of them or none."""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from stages.errors import ReportError, Settings
from stages.records import publish_directory
from stages.report.collect import Findings
from stages.report.tables import tabulate

INSTALL = "pip install -c constraints.txt -e '.[report]'"
PAGE = "report.html"
OWN = (PAGE, "report.md", "tables", "figures")
"""What a report's directory holds."""


def write_report(found: Findings, title: str, out: Path) -> list[Path]:
    """Write a report into a directory, in place of an earlier one, and return its files.

    ReportError: a package is missing, or the directory holds something else than a report.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ReportError(f"a report needs the package matplotlib: {INSTALL}")
    from stages.report.figures import draw_figures

    _check_place(out)
    tables, figures = tabulate(found), draw_figures(found)
    versions = [(run.versions or {}).items() for run in found.runs]
    content = {
        "found": found,
        "title": title,
        "tables": tables,
        "figures": figures,
        "versions": Counter(", ".join(f"{key}: {v}" for key, v in each) for each in versions),
    }
    files = {
        PAGE: _render(PAGE, content),
        "report.md": _render("report.md", content, _escape_markdown),
        **{f"tables/{one.key}.csv": one.to_csv().encode("utf-8", "replace") for one in tables},
        **{f"figures/{one.name}.svg": one.svg for one in figures},
    }
    with publish_directory(out.resolve()) as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return [out / name for name in files]


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ReportError(f"{out} is a file; name a directory", Settings(("out",)))
    there = sorted(path.name for path in out.iterdir()) if out.exists() else []
    foreign = next((name for name in there if name not in OWN), None)
    if there and (foreign is not None or PAGE not in there):
        raise ReportError(
            f"{out} holds something else than a report: {foreign or there[0]}; name another",
            Settings(("out",)),
        )


def _render(
    name: str, content: Mapping[str, Any], finalize: Callable[[object], Markup] | None = None
) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(f"{name}.jinja").render(content).encode("utf-8", "replace")


def _escape_markdown(value: object) -> Markup:
    """Return what Markdown shows as the text itself, in one line and in a table's cell too."""
    if isinstance(value, Markup):
        return value
    text = re.sub(r"([\\`*|\[\]])", r"\\\1", " ".join(str(value).split()))
    return Markup(escape(text, quote=False))  # noqa: S704
