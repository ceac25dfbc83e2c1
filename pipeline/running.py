"""The two stages as commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.files import write_json
from pipeline.formats import format_duration, format_size
from pipeline.options import CACHE, CHAT, QUANTISE, AutoCount, SamplerMixture

if TYPE_CHECKING:
    from stages.student import StudentResult
    from stages.teacher import Estimate

OBJECTIVES = ("kl", "generalised-kl", "l2", "algorithm-1")
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)


@click.command()
@click.option("--task", required=True, help="A bundled task's name, or a task file.")
@click.option("--model", default="auto", show_default=True, help="auto, mini, hub id or directory.")
@click.option(
    "--sampler",
    type=SamplerMixture(),
    default="unigram",
    show_default=True,
    help="unigram, vocabulary, uniform, self, self-labelled, or shares: vocabulary=0.5,self=0.5.",
)
@click.option("--rows", type=COUNT, default=32768, show_default=True, help="Random inputs.")
@click.option("--texts", type=click.Path(path_type=Path), help="Answer these texts instead.")
@click.option("--text-column", default="text", show_default=True)
@click.option(
    "--lengths",
    type=click.Choice(("uniform", "log-uniform")),
    default="uniform",
    show_default=True,
    help="Of random inputs, up to the task's longest.",
)
@click.option("--min-length", type=COUNT, default=1, show_default=True, help="In pieces.")
@click.option(
    "--temperature", type=float, default=1.0, show_default=True, help="Of texts that it writes."
)
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Likewise.")
@click.option(
    "--own-texts",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="Texts that the model writes itself for students to be measured on.",
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@CACHE
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N; all: the model split over all GPUs.",
)
@click.option(
    "--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16."
)
@click.option("--chunk-rows", type=COUNT, default=64, show_default=True, help="Of one length.")
@click.option("--shard-rows", type=COUNT, default=4096, show_default=True, help="Written at once.")
@click.option(
    "--batch-positions",
    type=AutoCount(),
    default="auto",
    show_default=True,
    help="Most positions in a forward pass; auto: found by a short trial.",
)
@click.option(
    "--compile",
    type=click.Choice(("auto", "on", "off")),
    default="auto",
    show_default=True,
    help="Have torch compile the layers; auto: for long runs, if it pays.",
)
@CHAT
@QUANTISE
@click.option("--dry-run", is_flag=True, help="Say what the run would take, and write nothing.")
@click.option(
    "--summary", type=click.Path(path_type=Path), help="Write what was found to this JSON file."
)
def teacher(summary: Path | None, dry_run: bool, **options: Any) -> None:
    """Stage one: record a language model's answers to random inputs.

    The same command again continues where it stopped, and several at once share the work.

    Example: pipeline teacher --task imdb --rows 100000
    """
    from pipeline.console import Console, quieten_libraries
    from stages.teacher import TeacherConfig, estimate_teacher, run_teacher

    quieten_libraries()
    console = Console(resumable=True)
    if dry_run:
        with console.catch_signals():
            _show_estimate(estimate_teacher(TeacherConfig(**options), console))
        return
    with console.catch_signals():
        result = run_teacher(TeacherConfig(**options), console)
    if summary is None:
        return
    # Nothing that differs between runs over the same cache: DVC compares this file.
    answers = result.answers
    manifest = result.cache.manifest
    task = manifest.inputs["task"]
    labels = [label["name"] for label in task["labels"]]
    write_json(
        summary,
        {
            "fingerprint": manifest.fingerprint,
            "directory": f"{task['name']}/{manifest.directory}",
            "rows": answers.rows,
            "norm_g": answers.norm_g,
            "spread": answers.spread,
            "balance": dict(zip(labels, answers.balance, strict=True)),
            "verdict": {"level": result.verdict.level, "words": result.verdict.words},
        },
    )


def _show_estimate(found: Estimate) -> None:
    left = found.rows - found.rows_there
    there = f", {found.rows_there:,} of them there already" if found.rows_there else ""
    for name, value in (
        ("rows", f"{found.rows:,}{there}"),
        ("batch", f"{found.batch_positions:,} positions"),
        ("speed", f"{found.rows_per_second:,.1f} rows a second, from {found.trial_rows:,} rows"),
        ("time", f"{format_duration(found.seconds)} for {left:,} rows, one worker"),
        ("disk", f"{format_size(found.bytes)} in {found.directory}"),
        ("answers", f"{found.verdict.shares}; spread {found.verdict.spread:.4f}"),
        ("verdict", f"{found.verdict.level}: {found.verdict.words}"),
    ):
        click.echo(f"{name + ':':<9}{value}")
    click.echo("dry run: nothing was written")


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
    help="Whose pieces and embeddings gold-labelled texts are read with, if not those of --from.",
)
@click.option("--objective", type=click.Choice(OBJECTIVES), default="kl", show_default=True)
@click.option("--steps", type=COUNT, default=500, show_default=True)
@click.option("--rows", type=COUNT, default=64, show_default=True, help="Cached rows a step.")
@click.option("--slices", type=COUNT, default=4, show_default=True, help="Lengths a step.")
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
    fields = ("objective", "steps", "rows", "slices", "log_every", "checkpoint_every", "seed")
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
                "own_texts": None if result.own_texts is None else result.own_texts.to_record(),
                "angle": found.angle,
                "centred_angle": found.centred_angle,
                "c_closed_form": found.c,
                "norm_g": found.norm_g,
                "norm_h": found.norm_h,
            },
        )
