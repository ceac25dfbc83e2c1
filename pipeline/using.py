"""Students in use: tagging texts and measuring how good they are."""

from __future__ import annotations

import codecs
import math
import os
import select
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import click

from pipeline.files import format_json, write_json
from pipeline.options import CACHE, CHAT, QUANTISE

BATCH = 256
"""Most lines that are answered together; fewer where no more are waiting."""

READ_BYTES = 2**20


class Share(click.ParamType[float]):
    """A number from 0 to 1."""

    name = "0 to 1"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 1:
            self.fail(f"got {value}, must be in [0, 1]", param, ctx)
        return number


class Input(click.File):
    """A file to read, or standard input, which may have been closed by whoever started this."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BinaryIO:
        """Open it."""
        try:
            return super().convert(value, param, ctx)  # type: ignore[return-value]
        except RuntimeError:  # how click says that there is no descriptor
            self.fail("standard input is closed; name a FILE", param, ctx)


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
    from pipeline.evaluation_words import format_evaluation
    from stages.evaluate import EvaluationConfig
    from stages.evaluate import evaluate as run

    quieten_libraries()
    console = Console()
    with console.catch_signals():
        found = run(EvaluationConfig(**options), console)
    data = {key: value for key, value in asdict(found).items() if value is not None}
    if found.own_texts is not None:
        data["own_texts"] = found.own_texts.to_record()
    if metrics is not None:
        write_json(metrics, data)
    if as_json:
        click.echo(format_json(data))
        return
    for line in format_evaluation(found):
        click.echo(line)


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    help="A student's directory, or an ONNX file of it.",
)
@click.option("--all", "every", is_flag=True, help="Give the scores of all labels.")
@click.option("--threshold", type=Share(), help="Least score of a tag; below it there is none.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "text", "jsonl"]),
    default="auto",
    show_default=True,
    help="Of the input.",
)
@click.option("--text-column", default="text", show_default=True, help="Key of a JSON line's text.")
@click.option("--device", default="auto", show_default=True)
@click.argument("file", type=Input("rb"), default="-")
def tag(
    model: Path,
    every: bool,
    threshold: float | None,
    form: str,
    text_column: str,
    device: str,
    file: BinaryIO,
) -> None:
    """Tag texts: a line in, a JSON line out, as a stream.

    Reads FILE, or standard input where it is '-' or absent.  A JSON line keeps its other keys.
    A line that holds no text has the label null; one that cannot be read has an "error" and makes
    the exit code 1.  Texts longer than the student reads are cut and marked "cut".  Below the
    --threshold the label is null, the score is given, and "below_threshold" is true.

    Example: echo "What a film!" | pipeline tag --model data/students/imdb-mini
    """
    from pipeline.console import Console, quieten_libraries
    from stages.classify import (
        find_home,
        format_answer,
        is_onnx,
        load_classifier,
        read_line,
        tag_lines,
    )
    from stages.metrics import find_temperature

    # An ONNX file is tagged with where there is no transformers to quieten.
    if not is_onnx(model):
        quieten_libraries()
    console = Console()
    classifier = load_classifier(model, device)
    console.say(f"device: {classifier.device}")
    if threshold is not None:
        temperature = find_temperature(find_home(model))
        if temperature is None:
            console.warn(
                f"threshold: {threshold:g}, of scores as they come: {model} has no record of a "
                "temperature in it, so they may be far from how often they are right"
            )
        else:
            console.say(f"threshold: {threshold:g}, of scores at the temperature {temperature:.2f}")
    bad = 0
    is_json = None if form == "auto" else form == "jsonl"
    number = 0
    with console.catch_signals():
        for batch in _gather(file, console):
            lines = []
            for raw in batch:
                number += 1
                shown = raw.removeprefix(codecs.BOM_UTF8).strip()
                if is_json is None and shown:
                    is_json = shown.startswith(b"{")
                    kind = "JSON lines" if is_json else "plain text"
                    console.say(f"input: {kind} (auto: by its first line)")
                lines.append(read_line(raw, number, bool(is_json), text_column))
            for answer in tag_lines(lines, classifier, every, threshold):
                bad += "error" in answer
                click.echo(format_answer(answer))
    if bad:
        raise click.ClickException(f"{bad:,} of {number:,} lines could not be read")


def _gather(file: BinaryIO, console: Any) -> Iterator[list[bytes]]:
    """Yield what is waiting, at most a batch, as soon as there is a line."""
    # From the descriptor, past Python's buffer: select sees nothing of what a buffer holds, and a
    # thread that waits inside one would break the interpreter's end.
    descriptor = file.fileno()
    begun: list[bytes] = []
    while True:
        console.check_stop()
        # Wake now and then to see a signal.
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        data = os.read(descriptor, READ_BYTES)
        if not data:
            break
        begun.append(data)
        if b"\n" not in data:
            continue
        *lines, rest = b"".join(begun).split(b"\n")
        begun = [rest] if rest else []
        for first in range(0, len(lines), BATCH):
            console.check_stop()
            yield lines[first : first + BATCH]
    if begun:
        yield [b"".join(begun)]
