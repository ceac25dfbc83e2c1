"""``pipeline student``: a small classifier trained on a cache."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import options
from pipeline.formats import write_json
from pipeline.params import Command

if TYPE_CHECKING:
    from stages.student import StudentResult

FILES = ("out", "curve", "metrics")


@click.command(cls=Command)
@options.CACHED_TASK
@click.option(
    "--arch",
    "archs",
    type=options.NAMED,
    multiple=True,
    required=True,
    help="Encoder: a short name, a hub id or a directory; can be repeated.",
)
@click.option(
    "--init",
    type=click.Choice(("pretrained", "random")),
    show_default="pretrained, where there are such weights",
    help="Weights that the encoder starts with.",
)
@options.CACHE
@click.option(
    "--from",
    "source",
    type=options.PLACE,
    multiple=True,
    show_default="the task's only complete cache, or the one of each of its prompts",
    help="Cache to train on: first digits of its fingerprint, its directory, or the file that the "
    "teacher wrote with --summary; several, of the same rows under other prompts, are averaged.",
)
@click.option("--partial", is_flag=True, help="Train on the rows of an incomplete cache.")
@options.choice(
    "--labels",
    ("teacher", "gold"),
    "Train on the teacher's cached answers, or on the labels of --texts.",
)
@options.path("--texts", "File of labelled texts for --labels gold.")
@options.TEXT_COLUMN
@options.LABEL_COLUMN
@options.LABEL_MAP
@click.option(
    "--model",
    type=options.NAMED,
    default="auto",
    help="Language model whose tokenizer and embeddings --labels gold uses, without --from.",
)
@click.option(
    "--prior",
    show_default="as the task says, or auto",
    help="What is taken off the teacher's answers: balanced (every class as often on the drawn "
    "rows), none, auto (balanced where these rows say little to the teacher and its own texts do "
    "not object), or shares, one for each label: bad=0.4,good=0.6.",
)
@options.choice(
    "--objective", ("kl", "generalised-kl", "l2", "algorithm-1"), "What the training minimises."
)
@options.count("--steps", 500, "Number of training steps.")
@options.count("--batch-size", 64, "Cached rows in one step.")
@options.count("--lengths-per-batch", 4, "Input lengths in one step.")
@click.option(
    "--learning-rate",
    type=float,
    show_default="by the encoder's size and start",
    help="Highest learning rate.",
)
@options.count("--held-out-rows", 1024, "Rows kept out of the training.")
@options.count("--log-every", 100, "Steps between two lines of the log.")
@options.count("--checkpoint-every", 250, "Steps between two checkpoints.")
@options.seed("Seed of the order of the rows and of random weights.")
@options.DEVICE
@options.THREADS
@options.path(
    "--out",
    "Directory to write the student to; {arch} in it is the encoder's name.",
    show_default="data/students/<task>-<arch>",
)
@options.path("--curve", "CSV file of c, norms and angles; can hold {arch}.", options.FILE)
@options.path("--metrics", "JSON file of the held-out metrics; can hold {arch}.", options.FILE)
def student(archs: tuple[str, ...], **settings: Any) -> None:
    """Stage two: train a small classifier on a cache.

    It is written as a transformers directory.  With --labels gold it is trained on labelled texts
    instead, and no teacher is asked.

    A killed run continues from its checkpoint when the same command is typed again.  Several
    --arch are trained one after the other, each into a directory of its own.

    Example: pipeline student --task imdb --arch roberta-large --arch distilbert
    """
    from pipeline.console import Console, quieten_libraries
    from stages.student import StudentConfig, TrainingConfig, check_students, run_student

    names = [Path(arch).name for arch in archs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(f"--arch: {twice} is given twice; one directory holds one student")
    files = {key: settings.pop(key) for key in FILES}
    for key, path in files.items():
        if len(archs) > 1 and path is not None and "{arch}" not in str(path):
            text = f"--{key}: got {path} for {len(archs)} students; put {{arch}} into it"
            raise click.UsageError(text)
    quieten_libraries()
    console = Console(resumable=True)
    if settings["task"] is None:
        settings["task"] = options.choose_task(settings, console)
    # Not the learning rate, which by default depends on the student.
    shared = {field.name for field in fields(TrainingConfig)} & settings.keys() - {"learning_rate"}
    training = TrainingConfig(**{name: settings.pop(name) for name in shared})
    configs, targets = [], []
    for arch, name in zip(archs, names, strict=True):
        paths: dict[str, Any] = {
            key: path and Path(str(path).replace("{arch}", name)) for key, path in files.items()
        }
        targets.append(paths.pop("metrics"))
        configs.append(StudentConfig(arch=arch, training=training, **settings, **paths))
    with console.catch_signals():
        # What is wrong with the last one shows before hours go into the first.
        check_students(configs)
        for config, target in zip(configs, targets, strict=True):
            result = run_student(config, console)
            if target is not None:
                write_json(target, _collect_metrics(result))


def _collect_metrics(result: StudentResult) -> dict[str, Any]:
    found, self_generated = result.projection, result.self_generated
    return {
        "fingerprint": result.fingerprint,
        "held_out_rows": found.rows,
        "centred_angle": found.centred_angle,
        "agreement": found.agreement,
        "agreement_interval": found.agreement_share.interval,
        "self_generated": None if self_generated is None else self_generated.to_record(),
        "angle": found.angle,
        "c_closed_form": found.c,
        "norm_g": found.norm_g,
        "norm_h": found.norm_h,
    }
