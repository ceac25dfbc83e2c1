"""``pipeline report``: tables and figures of what there is, as one page."""

from pathlib import Path

import click

from pipeline import options
from pipeline.params import Command

FOLDER = options.PathType(path_type=Path, exists=True, file_okay=False)


@click.command(cls=Command)
@click.option(
    "--students",
    type=FOLDER,
    multiple=True,
    default=("data/students",),
    help="Directory with students anywhere below; can be repeated.",
)
@click.option(
    "--evaluations",
    type=FOLDER,
    multiple=True,
    show_default="reports/evaluations, if it is there",
    help="Directory with what `evaluate --metrics` wrote; can be repeated.",
)
@click.option("--title", default="Functional projection: a report", help="Title of the page.")
@options.path(
    "--out",
    "Directory to write; an earlier report there is replaced.",
    default=Path("reports/report"),
)
def report(
    students: tuple[Path, ...], evaluations: tuple[Path, ...], title: str, out: Path
) -> None:
    """Turn students and their evaluations into tables and figures.

    Writes report.html, which needs nothing beside it, report.md, tables as CSV and figures as SVG.

    Example: pipeline report --out reports/report
    """
    from pipeline.console import Console
    from stages.report import collect, write_report

    usual = Path("reports/evaluations")
    if not evaluations and usual.is_dir():
        evaluations = (usual,)
    console = Console()
    with console.catch_signals():
        with console.track("reading students", 1, 0, "student"):
            found = collect(students, evaluations)
        for fault in found.faults:
            console.say(f"missing: {fault}")
        with console.track("drawing figures", 1, 0, "figure"):
            paths = write_report(found, title, out)
    for path in paths:
        click.echo(str(path))
