"""``pipeline student``: a small classifier trained on a cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.files import write_json
from pipeline.options import CACHE

if TYPE_CHECKING:
    from stages.student import StudentResult

OBJECTIVES = ("kl", "generalised-kl", "l2", "algorithm-1")
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)


@click.command()
@click.option("--task", required=True, help="A bundled task's name, or a task file.")
@click.option(
    "--arch",
    "archs",
    multiple=True,
    required=True,
    help="Short name, hub id or directory of an encoder; may be given several times.",
)
@click.option(
    "--init",
    type=click.Choice(["pretrained", "random"]),
    help="Start of the encoder.  [default: pretrained where there is such]",
)
@CACHE
@click.option(
    "--from",
    "source",
    help="First digits of a fingerprint, a cache's directory, or a teacher's --summary file.  "
    "[default: the task's only complete cache]",
)
@click.option("--partial", is_flag=True, help="Train on what is there of an incomplete cache.")
@click.option(
    "--labels",
    type=click.Choice(("teacher", "gold")),
    default="teacher",
    show_default=True,
    help="Learn a cache's answers, or the labels that the texts come with.",
)
@click.option("--texts", type=click.Path(path_type=Path), help="Labelled texts, for gold labels.")
@click.option("--text-column", default="text", show_default=True)
@click.option("--label-column", default="label", show_default=True)
@click.option(
    "--model",
    default="auto",
    show_default=True,
    help="Whose tokens and embeddings gold-labelled texts are read with, if not those of --from.",
)
@click.option("--objective", type=click.Choice(OBJECTIVES), default="kl", show_default=True)
@click.option("--steps", type=COUNT, default=500, show_default=True)
@click.option(
    "--batch-size", type=COUNT, default=64, show_default=True, help="Cached rows in one step."
)
@click.option(
    "--lengths-per-batch", type=COUNT, default=4, show_default=True, help="Lengths a step."
)
@click.option("--learning-rate", type=float, help="Peak.  [default: by size and start]")
@click.option("--held-out-rows", type=COUNT, default=1024, show_default=True)
@click.option("--log-every", type=COUNT, default=100, show_default=True, help="In steps.")
@click.option("--checkpoint-every", type=COUNT, default=250, show_default=True, help="In steps.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Directory to write; {arch} in it is the encoder's name.  "
    "[default: data/students/<task>-<arch>]",
)
@click.option(
    "--curve", type=click.Path(path_type=Path), help="CSV of c, norms and angles; likewise."
)
@click.option(
    "--metrics", type=click.Path(path_type=Path), help="JSON of the held-out figures; likewise."
)
def student(archs: tuple[str, ...], **options: Any) -> None:
    """Stage two: train a classifier on a cache and write it as a transformers directory.

    With --labels gold it is trained on labelled texts instead, and no teacher is asked.

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
    if len(archs) > 1:
        for key in ("out", "curve", "metrics"):
            if options[key] is not None and "{arch}" not in str(options[key]):
                raise click.UsageError(
                    f"--{key}: got {options[key]} for {len(archs)} students; put {{arch}} into it"
                )
    quieten_libraries()
    console = Console(resumable=True)
    fields = (
        "objective",
        "steps",
        "batch_size",
        "lengths_per_batch",
        "log_every",
        "checkpoint_every",
        "seed",
    )
    training = TrainingConfig(**{name: options.pop(name) for name in fields})
    places = {key: options.pop(key) for key in ("out", "curve", "metrics")}
    configs, targets = [], []
    for arch, name in zip(archs, names, strict=True):
        own: dict[str, Any] = {
            key: Path(str(path).replace("{arch}", name)) if path is not None else None
            for key, path in places.items()
        }
        targets.append(own.pop("metrics"))
        configs.append(StudentConfig(arch=arch, training=training, **options, **own))
    with console.catch_signals():
        # What is wrong with the last one shows before hours go into the first.
        check_students(configs)
        for config, target in zip(configs, targets, strict=True):
            _write_metrics(run_student(config, console), target)


def _write_metrics(result: StudentResult, metrics: Path | None) -> None:
    if metrics is not None:
        found = result.projection
        write_json(
            metrics,
            {
                "fingerprint": result.fingerprint,
                "held_out_rows": found.rows,
                "agreement": found.agreement,
                "agreement_interval": result.projection.agreement_share.interval,
                "self_generated": None
                if result.self_generated is None
                else result.self_generated.to_record(),
                "angle": found.angle,
                "centred_angle": found.centred_angle,
                "c_closed_form": found.c,
                "norm_g": found.norm_g,
                "norm_h": found.norm_h,
            },
        )
