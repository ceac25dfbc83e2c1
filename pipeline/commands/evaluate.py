"""``pipeline evaluate``: how good a student or a teacher is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.files import format_json, write_json
from pipeline.options import CACHE, CHAT, QUANTISE, Share


@click.command()
@click.option(
    "--model", type=click.Path(path_type=Path), help="A student's directory, or an ONNX file of it."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled texts; {task} in it is the task's name.  [default: the held-out cached rows]",
)
@click.option("--teacher", help="Also ask this model: auto, mini, hub id or directory.")
@click.option("--task", help="The task.  [default: the student's own]")
@click.option("--text-column", default="text", show_default=True)
@click.option("--label-column", default="label", show_default=True)
@click.option("--device", default="auto", show_default=True)
@CHAT
@QUANTISE
@click.option("--dtype", default="auto", show_default=True, help="The teacher's.")
@CACHE
@click.option(
    "--threshold", type=Share(), help="Also: what is left without answers of a lower score."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--metrics", type=click.Path(path_type=Path), help="Also write the JSON to a file.")
def evaluate(as_json: bool, metrics: Path | None, **options: Any) -> None:
    """Measure a student, or a teacher without one, on labelled texts.

    Without --data the written student is compared with the cached rows held out from its training.
    The expected calibration error says how far scores are from how often they are right, or from
    the teacher's: before and after the temperature that is in the student.

    Example: pipeline evaluate --model data/students/imdb-mini --data test.jsonl --teacher mini
    """
    from pipeline.console import Console, quieten_libraries
    from pipeline.format_evaluation import format_evaluation
    from stages.evaluate import EvaluationConfig
    from stages.evaluate import evaluate as run

    quieten_libraries()
    console = Console()
    with console.catch_signals():
        found = run(EvaluationConfig(**options), console)
    data = {key: value for key, value in asdict(found).items() if value is not None}
    if found.self_generated is not None:
        data["self_generated"] = found.self_generated.to_record()
    if metrics is not None:
        write_json(metrics, data)
    if as_json:
        click.echo(format_json(data))
        return
    for line in format_evaluation(found):
        click.echo(line)
