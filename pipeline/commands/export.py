"""Students for others: files to serve them with, and a place on a model hub."""

import logging
import sys
from typing import Any

import click

from pipeline import options
from pipeline.formats import format_size
from pipeline.params import Command


@click.command(cls=Command)
@options.path("--model", "Directory of the student.", required=True)
@click.option(
    "--format",
    "formats",
    type=click.Choice(("onnx", "transformers")),
    multiple=True,
    default=("onnx",),
    help="Format of the weights; can be repeated.",
)
@click.option("--int8", is_flag=True, help="Also write an ONNX file with weights in 8 bits.")
@options.path(
    "--out",
    "Directory to write.",
    show_default="the student's name with -onnx, or with -export where no ONNX file is written",
)
@options.path(
    "--metrics",
    "JSON file that `pipeline evaluate --metrics` wrote, for the model card; can be repeated.",
    multiple=True,
)
@click.option(
    "--push-to-hub", metavar="REPO", help="Also upload the export to this model repository."
)
@options.THREADS
@click.option("--private", is_flag=True, help="Make the repository private, where it is new.")
def export(push_to_hub: str | None, private: bool, **settings: Any) -> None:
    """Export a student: ONNX files, a model card, a model hub.

    Every ONNX file is compared with the student before anything is kept.  It is run by
    'pipeline tag --model OUT/onnx/model.onnx' with onnxruntime and tokenizers alone.

    Example: pipeline export --model data/students/imdb-mini --int8
    """
    from pipeline.console import Console, quieten_libraries
    from stages.errors import SettingError
    from stages.export import ExportConfig, check_push, export_student, push_folder

    if private and push_to_hub is None:
        raise SettingError("--private is of --push-to-hub; give it as well")
    quieten_libraries()
    # It tells of every operator of torchvision that it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    console = Console()
    if push_to_hub is not None:
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        check_push(push_to_hub)
        if not sys.stderr.isatty():
            disable_progress_bars()
    with console.catch_signals():
        done = export_student(ExportConfig(**settings), console)
        console.say(f"export: {done.out}")
        for each in done.files:
            click.echo(
                f"{each.file}: {format_size(each.bytes)}, agreement {each.agreement:.2%}, largest "
                f"difference {each.largest_difference:.1e}, {each.texts_per_second:,.0f} texts a "
                f"second on one core (torch: {each.original_texts_per_second:,.0f}), "
                f"{each.rows:,} random texts"
            )
        if push_to_hub is not None:
            console.say(f"uploading to {push_to_hub}")
            click.echo(push_folder(done.out, push_to_hub, private, console))
