"""``pipeline tag``: texts in, labels out, as a stream."""

from __future__ import annotations

import codecs
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from pipeline.options import Share

BATCH = 256
"""Most lines that are answered together; fewer where no more are waiting."""

READ_BYTES = 2**20


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
        format_answer,
        is_onnx,
        load_classifier,
        model_directory,
        read_line,
        tag_lines,
    )
    from stages.records import find_record, read_temperature

    # An ONNX file is tagged with where there is no transformers to quieten.
    if not is_onnx(model):
        quieten_libraries()
    console = Console()
    classifier = load_classifier(model, device)
    console.say(f"device: {classifier.device}")
    if threshold is not None:
        temperature = read_temperature(find_record(model_directory(model)))
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
