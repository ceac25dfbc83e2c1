"""``pipeline tag``: texts in, labels out, as a stream."""

from pathlib import Path

import click

from pipeline import options
from pipeline.console import Console, quieten_libraries
from pipeline.params import Command


@click.command(cls=Command)
@options.path(
    "--model", "Student to tag with: its directory, or an ONNX file of it.", required=True
)
@click.option(
    "--file",
    "onnx_file",
    help="ONNX file of the directory to tag with.",
    show_default="model.onnx where there are no weights for torch",
)
@click.option("--all", "all_scores", is_flag=True, help="Give the scores of all labels.")
@options.threshold("Lowest score of a label, from 0 to 1; a text below it gets none.")
@click.option(
    "--format",
    "input_format",
    type=click.Choice(("auto", "text", "jsonl")),
    default="auto",
    help="Format of the input: lines of plain text or JSON; auto goes by what FILE begins with.",
)
@options.TEXT_COLUMN
@options.DEVICE
@options.THREADS
@click.argument("file", type=options.PATH, default="-")
def tag(
    model: Path,
    onnx_file: str | None,
    all_scores: bool,
    threshold: float | None,
    input_format: str,
    text_column: str,
    device: str,
    file: Path,
) -> None:
    """Tag texts as a stream: a line in, a JSON line out.

    Reads FILE, or standard input where it is '-' or absent: plain lines, JSON lines or an array,
    CSV, TSV, Parquet or Arrow, compressed or not.  A row keeps its other keys or columns.  Blank
    lines are skipped.  An empty text has the label null; a row that cannot be read has an "error"
    and makes the exit code 1.  Texts longer than the student reads are cut and marked "cut".  Below
    the --threshold the label is null, the score is given, and "below_threshold" is true.

    Scores are as in transformers, by the model's problem_type: of one label in all, of each label
    by itself (--all gives each), or its outputs as they are (regression).

    Example: echo "What a film!" | pipeline tag --model data/students/imdb-mini
    """
    from stages.classify import (
        SCORES,
        find_model,
        format_answer,
        is_onnx,
        load_classifier,
        tag_rows,
    )
    from stages.texts import TextFile

    found = find_model(model, onnx_file)
    # An ONNX file is tagged with where there is no transformers to quieten.
    if not is_onnx(found):
        quieten_libraries()
    console = Console()
    if found != model:
        console.say(f"model: {found}")
    model = found
    texts = TextFile(file, text_column, input_format, console.check_stop)
    classifier = load_classifier(model, device)
    console.say(f"device: {classifier.device}")
    if note := SCORES[classifier.scores]:
        console.say(note)
    if threshold is not None:
        _report_threshold(threshold, model, console)
    count = errors = 0
    with console.catch_signals():
        for rows in texts.read_batches():
            if not count and input_format == "auto":
                console.say(f"input: {texts.kind}")
            count += len(rows)
            for answer in tag_rows(
                rows, classifier, all_scores, threshold, lambda done: console.check_stop()
            ):
                click.echo(format_answer(answer))
            errors += sum(row.error is not None for row in rows)
            console.check_stop()
    if texts.blank:
        console.say(f"blank lines skipped: {texts.blank:,}")
    if errors:
        raise click.ClickException(f"{errors:,} of {count:,} {rows[-1].unit}s could not be read")


def _report_threshold(threshold: float, model: Path, console: Console) -> None:
    from stages.classify import model_directory
    from stages.records import find_record, read_temperature

    temperature = read_temperature(find_record(model_directory(model)))
    if temperature is not None:
        console.say(f"threshold: {threshold:g}, of scores at the temperature {temperature:.2f}")
    else:
        console.warn(
            f"threshold: {threshold:g}, of scores as they come: {model} has no record of a "
            "temperature in it, so they may be far from how often they are right"
        )
