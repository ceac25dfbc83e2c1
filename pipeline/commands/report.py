"""What there is, as a page."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.options import CACHE

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option(
    "--students", type=FOLDER, multiple=True, help="With students below.  [default: data/students]"
)
@click.option(
    "--evaluations",
    type=FOLDER,
    multiple=True,
    help="With what `evaluate --metrics` wrote.  [default: reports/evaluations, if it is there]",
)
@CACHE
@click.option(
    "--published",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A YAML file of figures to put beside, such as benchmarks/paper/published.yaml.",
)
@click.option("--title", default="Functional projection: a report", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("reports/report"), show_default=True
)
def report(
    students: tuple[Path, ...],
    evaluations: tuple[Path, ...],
    cache: str,
    published: Path | None,
    title: str,
    out: Path,
) -> None:
    """Turn students and their evaluations into tables and figures.

    Writes report.html, which needs nothing beside it, report.md, tables as CSV and figures as PNG
    and SVG.

    Example: pipeline report --out reports/report
    """
    from stages.report import collect, write_report

    if not students:
        students = (Path("data/students"),)
        if not students[0].is_dir():
            raise click.UsageError(f"there is no directory {students[0]}; name one with --students")
    if not evaluations:
        usual = Path("reports/evaluations")
        evaluations = (usual,) if usual.is_dir() else ()
    found = collect(students, evaluations, cache, published)
    for fault in found.faults:
        click.echo(f"missing: {fault}", err=True)
    for path in write_report(found, title, out):
        click.echo(str(path))
