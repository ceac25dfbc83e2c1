"""``pipeline teacher``: a language model's answers to inputs without text, into a cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import options
from pipeline.formats import format_duration, format_size, write_json
from pipeline.params import Command

if TYPE_CHECKING:
    from stages.teacher import Estimate, TeacherResult


@click.command(cls=Command)
@options.TASK
@options.MODEL
@click.option(
    "--sampler",
    type=options.parse_samplers,
    default="auto",
    metavar="SAMPLER",
    help="unigram, vocabulary, uniform, self, self-labelled or self-noisy, a mixture of them with "
    "shares, such as vocabulary=0.5,self=0.5, or auto: self-noisy where the task's `write` names "
    "labels, otherwise and with mini unigram.",
)
@options.count("--rows", 32768, "Number of inputs.")
@options.path("--texts", "File of texts to answer instead.")
@options.TEXT_COLUMN
@click.option(
    "--temperature", type=float, default=1.0, help="Sampling temperature of the self samplers."
)
@click.option(
    "--top-p", type=float, default=1.0, help="Nucleus (top-p) that the self samplers draw from."
)
@click.option(
    "--self-generated",
    type=click.IntRange(min=0),
    default=1024,
    help="Texts that the model generates for students to be measured on.",
)
@options.seed("Seed of the inputs.")
@options.CACHE
@click.option(
    "--device",
    default="auto",
    help="Device to compute on: auto, cpu, cuda, cuda:N, or all, which splits the model over all "
    "GPUs.",
)
@options.DTYPE
@options.count("--chunk-rows", 64, "Rows of a chunk; those drawn share a length.")
@options.count("--shard-rows", 4096, "Rows written as one shard.")
@click.option(
    "--batch-positions",
    type=options.parse_positions,
    default="auto",
    metavar="[auto|INTEGER]",
    help="Most positions in one forward pass; auto measures which number is the fastest.",
)
@options.choice(
    "--compile",
    ("auto", "on", "off"),
    "Compile the layers with torch; auto does so for long runs if it is faster.",
)
@options.THREADS
@options.CHAT
@options.QUANTISE
@click.option("--dry-run", is_flag=True, help="Say what the run would take, and write nothing.")
@options.path("--summary", "JSON file of the fingerprint and the answers' balance.", options.FILE)
def teacher(summary: Path | None, dry_run: bool, **settings: Any) -> None:
    """Stage one: record what a language model answers.

    Its inputs are drawn from seeds, written by itself, or texts.
    The same command again continues where it stopped, and several at once share the work.

    Example: pipeline teacher --task imdb --rows 100000
    """
    from pipeline.console import Console, quieten_libraries
    from stages.tasks import load_task
    from stages.teacher import TeacherConfig, estimate_teacher, run_teacher

    quieten_libraries()
    console = Console(resumable=True)
    with console.catch_signals():
        asked = load_task(settings.pop("task")).split()
        configs = [TeacherConfig(task=task, **settings) for task in asked]
        results: list[TeacherResult] = []
        for number, config in enumerate(configs, 1):
            if len(configs) > 1:
                console.say(f"prompt {number} of {len(configs)}: {asked[number - 1].prompt!r}")
            if dry_run:
                _show_estimate(estimate_teacher(config, console))
            else:
                first = results[0].cache if results else None
                results.append(run_teacher(config, console, first))
    if dry_run:
        click.echo("dry run: nothing was written")
    elif summary is not None:
        found = [_summarise(result) for result in results]
        further = {"prompts": found} if len(found) > 1 else {}
        write_json(summary, found[0] | further)


def _summarise(result: TeacherResult) -> dict[str, Any]:
    """Return nothing that differs between runs over the same cache: DVC compares it."""
    manifest, verdict = result.cache.manifest, result.verdict
    task = manifest.inputs["task"]
    labels = [label["name"] for label in task["labels"]]
    return {
        "fingerprint": manifest.fingerprint,
        "directory": f"{task['name']}/{manifest.directory}",
        "rows": verdict.answers.rows,
        "norm_g": verdict.answers.norm_g,
        "spread": verdict.answers.spread,
        "balance": dict(zip(labels, verdict.answers.balance, strict=True)),
        "verdict": {"level": verdict.level, "reason": verdict.reason},
    }


def _show_estimate(found: Estimate) -> None:
    left = found.rows - found.rows_there
    there = f", {found.rows_there:,} of them there already" if found.rows_there else ""
    more = f"{format_duration(found.writing_seconds)} more for {found.texts:,} self-generated texts"
    for name, value in (
        ("rows", f"{found.rows:,}{there}"),
        ("batch", f"{found.batch_positions:,} positions"),
        ("speed", f"{found.rows_per_second:,.1f} rows a second, from {found.measured_rows:,} rows"),
        ("time", f"{format_duration(found.seconds)} for {left:,} rows, one worker"),
        *([("writing", more)] if found.texts else []),
        ("disk", f"{format_size(found.bytes)} in {found.directory}"),
        ("answers", f"{found.verdict.shares}; spread {found.verdict.answers.spread:.4f}"),
        ("verdict", f"{found.verdict.level}: {found.verdict.reason}"),
        *([("texts", f"{ability.level}: {ability.reason}")] if (ability := found.ability) else []),
    ):
        click.echo(f"{name + ':':<9}{value}")
