"""``pipeline evaluate``: how good a student or a teacher is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import options
from pipeline.formats import format_json, write_json
from pipeline.params import Command

if TYPE_CHECKING:
    from stages.evaluate import Evaluation
    from stages.metrics import CalibrationErrors, Scores

ECE = "expected calibration error"


@click.command(cls=Command)
@options.path("--model", "Student to measure: its directory, or an ONNX file of it.")
@options.path(
    "--data",
    "File of labelled texts; {task} in it is the task's name.",
    show_default="the held-out rows of the student's cache",
)
@click.option(
    "--teacher",
    type=options.NAMED,
    help="Language model to measure as well: auto, mini, a hub id, a directory or a GGUF file.",
)
@click.option(
    "--task",
    type=options.NAMED,
    show_default="the student's, or the only one with a complete cache",
    help="Task of the teacher.",
)
@options.TEXT_COLUMN
@options.LABEL_COLUMN
@options.LABEL_MAP
@options.DEVICE
@options.THREADS
@options.CHAT
@options.QUANTISE
@options.DTYPE
@options.CACHE
@options.threshold("Also measure the answers with at least this score, from 0 to 1.")
@options.JSON
@options.path("--metrics", "File to write the JSON to.", options.FILE)
def evaluate(as_json: bool, metrics: Path | None, **settings: Any) -> None:
    """Measure a student or a teacher on labelled texts.

    Without --data the written student is compared with the cached rows held out from its training.
    The expected calibration error says how far scores are from how often they are right, or from
    the teacher's: before and after the temperature that is in the student.

    Example: pipeline evaluate --model data/students/imdb-mini --data test.jsonl --teacher mini
    """
    from pipeline.console import Console, quieten_libraries
    from stages.evaluate import EvaluationConfig
    from stages.evaluate import evaluate as run

    quieten_libraries()
    console = Console()
    if settings["teacher"] is not None and settings["model"] is settings["task"] is None:
        settings["task"] = options.choose_task({"cache": settings["cache"]}, console)
    with console.catch_signals():
        found = run(EvaluationConfig(**settings), console)
    data = {key: value for key, value in asdict(found).items() if value is not None}
    if found.self_generated is not None:
        data["self_generated"] = found.self_generated.to_record()
    click.echo(format_json(data) if as_json else "\n".join(_format_evaluation(found)))
    if metrics is not None:
        write_json(metrics, data)


def _format_evaluation(found: Evaluation) -> Iterator[str]:
    if (held_out := found.held_out) is not None:
        yield (
            f"{found.rows:,} held-out rows: agreement {held_out.agreement_share}, "
            f"centred α {held_out.centred_angle:.3f} rad, α {held_out.angle:.3f} rad"
        )
        if found.self_generated is not None:
            yield (
                f"{found.self_generated.rows:,} self-generated texts: agreement "
                f"{found.self_generated}, the estimate for real texts"
            )
    else:
        yield f"{found.rows:,} texts of {found.data}"
        for name, scores in (
            ("student", found.student),
            ("teacher", found.teacher),
            ("teacher without its prior", found.teacher_without_prior),
        ):
            yield from () if scores is None else _format_scores(name, scores)
        if found.agreement is not None:
            low, high = found.agreement_interval or (found.agreement, found.agreement)
            yield (
                f"agreement of student and teacher: {found.agreement:.2%} "
                f"({100 * low:.1f}-{100 * high:.1f})"
            )
    if (confidence := found.calibration) is not None:
        for reference, errors in (
            ("labels", confidence.against_labels),
            ("teacher", confidence.against_teacher),
        ):
            if errors is not None:
                yield _format_errors(reference, errors, confidence.temperature)
        if confidence.teacher_ece is not None:
            yield f"{ECE} of the teacher against the labels: {confidence.teacher_ece:.2%}"
    if (selection := found.selection) is not None:
        right = "" if selection.accuracy is None else f", accuracy {selection.accuracy:.2%}"
        yield (
            f"threshold {selection.threshold:g}: {selection.coverage:.2%} of the texts get a tag"
            f"{right}"
        )


def _format_scores(name: str, scores: Scores) -> Iterator[str]:
    yield (
        f"{name}: accuracy {scores.accuracy:.2%}, macro-F1 {scores.macro_f1:.2%}, "
        f"{scores.texts_per_second:,.0f} texts a second"
    )
    yield f"  {'class':<20} {'precision':>9} {'recall':>9} {'F1':>9} {'rows':>9}"
    for label, row in scores.classes.items():
        yield (
            f"  {label:<20} {row['precision']:>9.2%} {row['recall']:>9.2%} "
            f"{row['f1']:>9.2%} {row['rows']:>9,}"
        )


def _format_errors(reference: str, errors: CalibrationErrors, temperature: float | None) -> str:
    if errors.ece_before is None or temperature is None:
        figures = f"{errors.ece_after:.2%} (as it is: its record names no temperature in it)"
    else:
        figures = (
            f"{errors.ece_before:.2%} without its temperature of {temperature:.2f}, "
            f"{errors.ece_after:.2%} with it"
        )
    return f"{ECE} of the student against the {reference}, {errors.rows:,} rows: {figures}"
