"""``pipeline task``: the tasks there are, and how a model's tokenizer sees one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import options

NAME = click.argument(
    "name", type=options.NAMED, required=False, metavar="NAME", callback=options.require_task
)

if TYPE_CHECKING:
    from stages.tasks import Task


@click.group()
def task() -> None:
    """List, show and check tasks: prompts and label words."""


@task.command("list")
@options.JSON
def list_tasks_command(as_json: bool) -> None:
    """List the tasks that come with the project.

    Example: pipeline task list
    """
    from stages.tasks import list_tasks, load_task

    tasks = [load_task(name) for name in list_tasks()]
    if as_json:
        click.echo(json.dumps([_describe(entry) for entry in tasks], indent=2))
        return
    for entry in tasks:
        click.echo(f"{entry.name:<12} {', '.join(entry.label_names):<40} {entry.prompt.strip()}")


@task.command("show")
@NAME
@options.JSON
def show_task(name: str, as_json: bool) -> None:
    """Show a task: its name, or the path of its YAML file.

    Example: pipeline task show imdb
    """
    from stages.tasks import SCORES, load_task

    data = _describe(load_task(name))
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    click.echo(f"name:       {data['name']}")
    for asked in load_task(name).split():
        for key in ("prompt", "suffix"):
            click.echo(f"{key}:     {json.dumps(getattr(asked, key), ensure_ascii=False)}")
    _show_write(load_task(name))
    click.echo(f"max_length: {data['max_length']} tokens")
    for key in (*SCORES, "prior"):
        click.echo(f"{key}: {data[key]}")
    for label, words in data["labels"].items():
        click.echo(f"label:      {label}: {', '.join(words)}")


@task.command("check")
@NAME
@click.option(
    "--model",
    type=options.NAMED,
    default="mini",
    help="Model with the tokenizer: mini, a hub id, a directory or a GGUF file.",
)
@options.CHAT
def check_task(name: str, model: str, chat: bool) -> None:
    """Check a task against a model's tokenizer.

    Shows the prompt as the model sees it, and the tokens of each label word: the first stands for
    it, or, where words are scored as a whole, all do, and those of its other spellings below it.

    Example: pipeline task check mine.yaml --model meta-llama/Llama-2-7b-hf
    """
    from pipeline.console import quieten_libraries
    from stages.lm import load_language_tokenizer, resolve_tokenizer
    from stages.tasks import describe_chat, load_task

    quieten_libraries()
    tokenizer = load_language_tokenizer(resolve_tokenizer(model))
    for entry in load_task(name).split():
        _show_check(entry, tokenizer, chat)
    _show_write(entry)
    if note := describe_chat(tokenizer, chat):
        click.echo(note if chat else f"{note}; --chat turns it on", err=True)
    click.echo(f"task {entry.name} can be used with {model}{' --chat' if chat else ''}")


@task.command("tune")
@options.TASK
@options.MODEL
@options.path(
    "--variants",
    "YAML list of mappings with what each asks otherwise: prompt, suffix, labels, word_score, "
    "label_score.",
    show_default="those bundled for the task, or for any",
)
@options.count("--texts", 256, "Texts that the model writes for the labels.")
@options.count("--rows", 256, "Random rows that a prior is found on.")
@options.DEVICE
@options.DTYPE
@options.THREADS
@options.JSON
def tune(task: str, variants: Path | None, texts: int, as_json: bool, **settings: Any) -> None:
    """Rank ways of asking by the model's own texts.

    Ways are the prompts of the task and its variants, with the model's chat template and without,
    with the prior taken off and without.  A text counts where the label is named that it was
    written for.  The best is printed as what belongs into the task's file.

    Example: pipeline task tune --task ag_news --model Qwen/Qwen2.5-0.5B-Instruct
    """
    from pipeline.console import Console, quieten_libraries
    from stages.tasks import SCORES, load_task, load_variants
    from stages.teacher import TeacherConfig, rank_candidates

    quieten_libraries()
    console, asked = Console(), load_task(task)
    # Rows of a chunk share a length, and here few rows are to have many.
    config = TeacherConfig(task=asked, self_generated=texts, chunk_rows=1, **settings)
    with console.catch_signals():
        found = rank_candidates(config, load_variants(asked, variants), console)
    rows = [
        _describe(each.task)
        | {"chat": each.chat, "accuracy": each.share.value, "interval": each.share.interval}
        for each in found
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for each in found:
        scores = f"{each.task.word_score}, {each.task.label_score}"
        way = f"{'chat' if each.chat else '':<4} {each.task.prior:<8} {scores:<16}"
        click.echo(f"{each.share!s:<19} {way} {each.task.prompt!r} … {each.task.suffix!r}")
    console.say("the best, for the task's file" + " and with --chat" * found[0].chat)
    for key in ("prompt", "suffix", "prior", *SCORES, "labels"):
        click.echo(f"{key}: {json.dumps(rows[0][key], ensure_ascii=False)}")


def _show_check(entry: Task, tokenizer: Any, chat: bool) -> None:
    from stages.checkpoints import describe_lost
    from stages.tasks import build_verbaliser, describe_frame, frame_task

    verbaliser = build_verbaliser(entry, tokenizer, chat)
    for line in describe_frame(entry, tokenizer, chat):
        click.echo(line)
    for word in verbaliser.words:
        click.echo(f"{word.label:<16} {word.word:<16} {word.token_id:>7}  {' '.join(word.tokens)}")
        spellings = map(tokenizer.convert_ids_to_tokens, word.spellings or ())
        for tokens in (each for each in spellings if each != list(word.tokens)):
            click.echo(f"{'':<41}  {' '.join(tokens)}")
    click.echo(verbaliser.describe_scores(), err=True)
    joined = frame_task(entry, tokenizer, chat).warning
    for line in filter(None, (describe_lost(tokenizer), *verbaliser.describe_splits(), joined)):
        click.echo(f"{click.style('warning:', fg='yellow')} {line}", err=True)


def _show_write(entry: Task) -> None:
    texts = [text for text in (entry.write, entry.write_labelled) if text]
    click.echo(f"write:      {' or '.join(map(repr, texts)) or 'continues the prompt'}")


def _describe(entry: Task) -> dict[str, Any]:
    from stages.tasks import SCORES

    more = {key: getattr(entry, key) for key in (*SCORES, "write", "write_labelled", "prior")}
    return entry.describe() | more | {"labels": {it.name: list(it.words) for it in entry.labels}}
