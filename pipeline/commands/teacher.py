"""``pipeline teacher``: a language model's answers to random inputs, into a cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.files import write_json
from pipeline.formats import format_duration, format_size
from pipeline.options import CACHE, CHAT, QUANTISE, AutoCount, SamplerMixture

if TYPE_CHECKING:
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
@click.option("--min-length", type=COUNT, default=1, show_default=True, help="In tokens.")
@click.option(
    "--temperature", type=float, default=1.0, show_default=True, help="Of texts that it writes."
)
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Likewise.")
@click.option(
    "--self-generated",
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
    answers = result.verdict.answers
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
            "verdict": {"level": result.verdict.level, "reason": result.verdict.reason},
        },
    )


def _show_estimate(found: Estimate) -> None:
    left = found.rows - found.rows_there
    there = f", {found.rows_there:,} of them there already" if found.rows_there else ""
    for name, value in (
        ("rows", f"{found.rows:,}{there}"),
        ("batch", f"{found.batch_positions:,} positions"),
        ("speed", f"{found.rows_per_second:,.1f} rows a second, from {found.measured_rows:,} rows"),
        ("time", f"{format_duration(found.seconds)} for {left:,} rows, one worker"),
        ("disk", f"{format_size(found.bytes)} in {found.directory}"),
        ("answers", f"{found.verdict.shares}; spread {found.verdict.answers.spread:.4f}"),
        ("verdict", f"{found.verdict.level}: {found.verdict.reason}"),
    ):
        click.echo(f"{name + ':':<9}{value}")
    click.echo("dry run: nothing was written")
