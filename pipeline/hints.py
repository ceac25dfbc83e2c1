"""Hints of errors, and what caches and records say was done, as commands to type.

This is the one place that knows the commands for them: stages and caches name none.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cache import errors as cache_errors
from stages import errors as stage_errors

if TYPE_CHECKING:
    from cache.directory import Cache
    from cache.stores import Place
    from stages.report import Run

FINISH = "`pipeline teacher` with the same settings finishes it"
HINTS: Mapping[cache_errors.Hint | stage_errors.Hint, str] = {
    cache_errors.Hint.VERIFY: "; run `pipeline cache verify {subject}`",
    cache_errors.Hint.FILL: f"; {FINISH}, there is nothing to read yet",
    cache_errors.Hint.FILL_OR_PARTIAL: f"; {FINISH}, `--partial` trains on what is there",
    cache_errors.Hint.CREATE: "; run `pipeline teacher --task {subject}` first",
    cache_errors.Hint.CHOOSE: "\nname one with --from and its first digits",
    stage_errors.Hint.TRAIN: "; `pipeline student` makes one",
    stage_errors.Hint.EXPORT: "; `pipeline export` makes it",
}

OPTIONS = {"formats": "format", "source": "from"}
"""Settings whose option has another name."""


def format_hint(error: cache_errors.CacheError | stage_errors.StageError) -> str:
    """Return what helps against an error, to stand behind its message; empty without a hint."""
    if isinstance(error, cache_errors.TaskChoiceError):
        return _list_tasks(error)
    if error.hint is None:
        return ""
    if isinstance(error.hint, stage_errors.Settings):
        options = (OPTIONS.get(name, name).replace("_", "-") for name in error.hint.names)
        example = f" {shlex.quote(error.hint.example)}" if error.hint.example else ""
        return f" ({', '.join(f'--{option}' for option in options)}{example})"
    return HINTS[error.hint].format(subject=shlex.quote(getattr(error, "subject", "")))


def format_again(name: str, option: str = "") -> str:
    """Return what was typed, with a name at its end, as a line of a list."""
    return f"\n  {shlex.join(['pipeline', *sys.argv[1:], *option.split(), name])}"


def _list_tasks(error: cache_errors.TaskChoiceError) -> str:
    from stages.tasks import list_tasks

    if error.tasks:
        again = (format_again(_name_task(task), "--task") for task in error.tasks)
        return f"; name one:{''.join(again)}"
    makers = [*map(format_teacher_command, error.unfinished)] or [
        format_command("teacher", {"task": task, "cache": error.root}) for task in list_tasks()
    ]
    return "\n  ".join((f"; {'finish' if error.unfinished else 'make'} one:", *makers))


def format_teacher_command(cache: Cache) -> str:
    """Return the command that computes what is missing of a cache, or begins it anew elsewhere.

    What a manifest does not know is left to whoever types it: where the file of a user's task
    lies, and which column texts were taken from.
    """
    inputs, notes, layout = cache.manifest.inputs, cache.manifest.notes, cache.layout
    try:
        task, sampler, compute = inputs["task"]["name"], inputs["sampler"], inputs["compute"]
        options: dict[str, Any] = {"task": _name_task(task), "model": notes["model"]}
        if notes.get("source"):
            options["texts"] = notes["source"]
        else:
            options |= {"sampler": sampler["name"], "rows": layout.rows, "seed": sampler["seed"]}
            rule = sampler["lengths"]
            options |= {"lengths": rule["kind"], "min-length": rule["minimum"]}
            options |= sampler.get("writing", {})
        options |= {
            "self-generated": notes.get("own_texts"),
            "device": compute["device"],
            "dtype": compute["dtype"],
            "chunk-rows": layout.chunk_rows,
            "shard-rows": layout.shard_rows,
            "batch-positions": compute["batch_positions"],
            "compile": compute["compile"],
            "quantise": compute["weights"],
            "cache": _find_root(cache.place, task),
            "chat": "chat" in inputs,
        }
    except (KeyError, TypeError):
        return "pipeline teacher with the settings that the cache was made with"
    return format_command("teacher", options)


def format_student_command(run: Run, root: str) -> str:
    """Return the command that trains a student on a cache below a root.

    What a record does not say is left to the command's defaults.
    """
    options: dict[str, Any] = {"task": _name_task(run.task), "arch": run.arch, "init": run.init}
    if run.approach == "direct":
        options |= {"labels": "gold", "texts": run.texts, "model": run.words_of}
    else:
        options |= {"cache": root, "from": run.cache, "objective": run.objective}
    names = ("steps", "batch_size", "lengths_per_batch", "learning_rate", "log_every", "seed")
    options |= {name: getattr(run, name) for name in names}
    options |= {"held-out-rows": run.held_out_rows, "out": run.path, "partial": run.partial}
    return format_command("student", options)


def format_command(command: str, options: Mapping[str, Any]) -> str:
    """Return a command line of options by name, ``_`` for ``-``.

    True is a flag; None, False and an empty text are left out.
    """
    parts = ["pipeline", command]
    for name, value in options.items():
        if value is not None and value is not False and value != "":
            parts.append(f"--{name.replace('_', '-')}")
            parts += [] if value is True else [shlex.quote(str(value))]
    return " ".join(parts)


def _name_task(task: str) -> str:
    from stages.tasks import list_tasks

    # A user's task is known by name only, not where its file lies.
    return task if task in list_tasks() else f"{task}.yaml"


def _find_root(place: Place, task: str) -> str:
    from cache.stores import LocalPlace

    # A cache that was moved away from where the teacher puts them has no root.
    if isinstance(place, LocalPlace):
        here = place.path.absolute().parent.name == task
        return str(place.path.parent.parent) if here else "ROOT"
    *root, folder, _ = place.url.split("/")
    return "/".join(root) if folder == task else "ROOT"
