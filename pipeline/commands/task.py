"""``pipeline task``: the tasks there are, and how a model's tokenizer sees one."""

from __future__ import annotations

import json
from typing import Any

import click


@click.group()
def task() -> None:
    """Tasks: what is asked, and which words answer it."""


@task.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_tasks_command(as_json: bool) -> None:
    """List the tasks that come with the project.

    Example: pipeline task list
    """
    from stages.tasks import list_tasks, load_task

    tasks = [load_task(name) for name in list_tasks()]
    if as_json:
        click.echo(json.dumps([_task_data(entry) for entry in tasks], indent=2))
        return
    for entry in tasks:
        click.echo(f"{entry.name:<12} {', '.join(entry.label_names):<40} {entry.prompt.strip()}")


@task.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_task(name: str, as_json: bool) -> None:
    """Show a task, bundled or of a file.

    Example: pipeline task show imdb
    """
    from stages.tasks import load_task

    entry = load_task(name)
    if as_json:
        click.echo(json.dumps(_task_data(entry), indent=2))
        return
    click.echo(f"name:       {entry.name}")
    click.echo(f"prompt:     {json.dumps(entry.prompt, ensure_ascii=False)}")
    click.echo(f"suffix:     {json.dumps(entry.suffix, ensure_ascii=False)}")
    click.echo(f"max_length: {entry.max_length} tokens")
    for label in entry.labels:
        click.echo(f"label:      {label.name}: {', '.join(label.words)}")


@task.command("check")
@click.argument("name")
@click.option("--model", default="mini", show_default=True, help="mini, hub id or directory.")
@click.option("--chat", is_flag=True, help="Put the prompt through the model's chat template.")
def check_task(name: str, model: str, chat: bool) -> None:
    """Check a task against a model's tokenizer, and show the prompt as the model sees it.

    Example: pipeline task check mine.yaml --model meta-llama/Llama-2-7b-hf
    """
    from pipeline.console import quieten_libraries
    from stages.lm import resolve_tokenizer
    from stages.loading import load_tokenizer
    from stages.tasks import build_verbaliser, describe_chat, describe_frame, load_task

    entry = load_task(name)
    quieten_libraries()
    tokenizer = load_tokenizer(resolve_tokenizer(model))
    verbaliser = build_verbaliser(entry, tokenizer, chat)
    for line in describe_frame(entry, tokenizer, chat):
        click.echo(line)
    for word in verbaliser.words:
        click.echo(f"{word.label:<16} {word.word:<16} {word.token_id:>7}  {' '.join(word.tokens)}")
    for line in verbaliser.describe_splits():
        click.echo(f"{click.style('warning:', fg='yellow')} {line}", err=True)
    if hint := describe_chat(tokenizer, chat):
        click.echo(hint, err=True)
    click.echo(f"task {entry.name} can be used with {model}{' --chat' if chat else ''}")


def _task_data(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "prompt": entry.prompt,
        "suffix": entry.suffix,
        "max_length": entry.max_length,
        "labels": {label.name: list(label.words) for label in entry.labels},
    }
