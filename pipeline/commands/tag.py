"""``pipeline tag``: texts in, labels out, as a stream."""

from __future__ import annotations

import codecs
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from pipeline import options
from pipeline.params import Command

if TYPE_CHECKING:
    from pipeline.console import Console

BATCH = 256  # most lines that are answered together; fewer where no more are waiting
READ_BYTES = 2**20


class Input(click.File):
    """A file to read, or standard input, which may have been closed by whoever started this."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BinaryIO:
        """Open it."""
        try:
            path = options.NAMED.convert(value, param, ctx)
            return super().convert(path, param, ctx)  # type: ignore[return-value]
        except RuntimeError:  # how click says that there is no descriptor
            self.fail("standard input is closed; name a FILE", param, ctx)


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
    help="Format of the input: lines of plain text or JSON; auto goes by the first line.",
)
@click.option("--text-column", default="text", help="Key of a JSON line that holds the text.")
@options.DEVICE
@click.argument("file", type=Input("rb"), default="-")
def tag(
    model: Path,
    onnx_file: str | None,
    all_scores: bool,
    threshold: float | None,
    input_format: str,
    text_column: str,
    device: str,
    file: BinaryIO,
) -> None:
    """Tag texts as a stream: a line in, a JSON line out.

    Reads FILE, or standard input where it is '-' or absent.  A JSON line keeps its other keys.
    A line that holds no text has the label null; one that cannot be read has an "error" and makes
    the exit code 1.  Texts longer than the student reads are cut and marked "cut".  Below the
    --threshold the label is null, the score is given, and "below_threshold" is true.

    Scores are as in transformers, by the model's problem_type: of one label in all, of each label
    by itself (--all gives each), or its outputs as they are (regression).

    Example: echo "What a film!" | pipeline tag --model data/students/imdb-mini
    """
    from pipeline.console import Console, quieten_libraries
    from stages.classify import (
        SCORES,
        find_model,
        format_answer,
        is_onnx,
        load_classifier,
        read_line,
        tag_lines,
    )

    found = find_model(model, onnx_file)
    # An ONNX file is tagged with where there is no transformers to quieten.
    if not is_onnx(found):
        quieten_libraries()
    console = Console()
    if found != model:
        console.say(f"model: {found}")
    model = found
    classifier = load_classifier(model, device)
    console.say(f"device: {classifier.device}")
    if note := SCORES[classifier.scores]:
        console.say(note)
    if threshold is not None:
        _report_threshold(threshold, model, console)
    is_json = None if input_format == "auto" else input_format == "jsonl"
    count = errors = 0
    with console.catch_signals():
        for batch in _read_batches(file, console):
            lines = []
            for raw in batch:
                count += 1
                text = raw.removeprefix(codecs.BOM_UTF8).strip()
                if is_json is None and text:
                    is_json = text.startswith(b"{")
                    kind = "JSON lines" if is_json else "plain text"
                    console.say(f"input: {kind} (auto: by its first line)")
                lines.append(read_line(raw, count, bool(is_json), text_column))
            for answer in tag_lines(lines, classifier, all_scores, threshold):
                errors += "error" in answer
                click.echo(format_answer(answer))
    if errors:
        raise click.ClickException(f"{errors:,} of {count:,} lines could not be read")


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


def _read_batches(file: BinaryIO, console: Console) -> Iterator[list[bytes]]:
    """Yield what is waiting, at most a batch, as soon as there is a line."""
    # From the descriptor, past Python's buffer: select sees nothing of what a buffer holds, and a
    # thread that waits inside one would break the interpreter's end.
    descriptor = file.fileno()
    unfinished: list[bytes] = []
    while True:
        console.check_stop()
        # Wake now and then to see a signal.
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        data = os.read(descriptor, READ_BYTES)
        if not data:
            break
        unfinished.append(data)
        if b"\n" not in data:
            continue
        *lines, rest = b"".join(unfinished).split(b"\n")
        unfinished = [rest] if rest else []
        for first in range(0, len(lines), BATCH):
            console.check_stop()
            yield lines[first : first + BATCH]
    if unfinished:
        yield [b"".join(unfinished)]
