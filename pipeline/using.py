"""Students in use: tagging texts and measuring how good they are."""

from __future__ import annotations

import codecs
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
@click.option("--model", type=click.Path(path_type=Path), help="A student's directory.")
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--metrics", type=click.Path(path_type=Path), help="Also write the JSON to a file.")
def evaluate(as_json: bool, metrics: Path | None, **options: Any) -> None:
    """Measure a student, or a teacher without one, on labelled texts.

    Without --data the written student is compared with the cached rows held out from its training.

    Example: pipeline evaluate --model data/students/imdb-mini --data test.jsonl --teacher mini
    """
    from pipeline.console import Console, quieten_libraries
    from stages.evaluation import EvaluationConfig, Scores
    from stages.evaluation import evaluate as run

    quieten_libraries()
    console = Console()
    with console.catch_signals():
        found = run(EvaluationConfig(**options), console)
    data = {key: value for key, value in asdict(found).items() if value is not None}
    if metrics is not None:
        write_json(metrics, data)
    if as_json:
        click.echo(format_json(data))
        return
    if found.held_out is not None:
        click.echo(
            f"{found.rows:,} held-out rows: agreement {found.held_out.agreement:.2%}, "
            f"α {found.held_out.angle:.3f} rad, centred α {found.held_out.centred_angle:.3f} rad"
        )
        return

    def show(name: str, scores: Scores) -> None:
        click.echo(
            f"{name}: accuracy {scores.accuracy:.2%}, macro-F1 {scores.macro_f1:.2%}, "
            f"{scores.texts_per_second:,.0f} texts a second"
        )
        click.echo(f"  {'class':<20} {'precision':>9} {'recall':>9} {'F1':>9} {'rows':>9}")
        for label, row in scores.classes.items():
            click.echo(
                f"  {label:<20} {row['precision']:>9.2%} {row['recall']:>9.2%} "
                f"{row['f1']:>9.2%} {row['rows']:>9,}"
            )

    click.echo(f"{found.rows:,} texts of {options['data']}")
    if found.student is not None:
        show("student", found.student)
    if found.teacher is not None:
        show("teacher", found.teacher)
    if found.agreement is not None:
        click.echo(f"agreement of student and teacher: {found.agreement:.2%}")


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="A student.")
@click.option("--all", "every", is_flag=True, help="Give the scores of all labels.")
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
def tag(model: Path, every: bool, form: str, text_column: str, device: str, file: BinaryIO) -> None:
    """Tag texts: a line in, a JSON line out, as a stream.

    Reads FILE, or standard input where it is '-' or absent.  A JSON line keeps its other keys.
    A line that holds no text has the label null; one that cannot be read has an "error" and makes
    the exit code 1.  Texts longer than the student reads are cut and marked "cut".

    Example: echo "What a film!" | pipeline tag --model data/students/imdb-mini
    """
    from pipeline.console import Console, quieten_libraries
    from stages import language_model as lm
    from stages.classifier import load_classifier
    from stages.tagging import format_answer, read_line, tag_lines

    quieten_libraries()
    console = Console()
    classifier = load_classifier(model, lm.choose_device(device).value)
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
            for answer in tag_lines(lines, classifier, every):
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
