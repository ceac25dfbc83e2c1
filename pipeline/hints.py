"""Hints of errors, as commands to type.

This is the one place that knows the commands for them: stages and caches name none.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping

from cache import errors as cache_errors
from stages import errors as stage_errors

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
    subject = getattr(error, "subject", "")
    if error.hint is cache_errors.Hint.CREATE:
        subject = _name_task(subject)
    return HINTS[error.hint].format(subject=shlex.quote(subject))


def format_again(name: str, option: str = "") -> str:
    """Return what was typed, with a name at its end, as a line of a list."""
    return f"\n  {shlex.join(['pipeline', *sys.argv[1:], *option.split(), name])}"


def _name_task(task: str) -> str:
    """Return what is typed for a task: a user's is known by name only, not where its file lies."""
    from stages.tasks import list_tasks

    return task if task in list_tasks() else f"{task}.yaml"


def _list_tasks(error: cache_errors.TaskChoiceError) -> str:
    from stages.tasks import list_tasks

    if error.tasks:
        lines = (format_again(_name_task(task), "--task") for task in error.tasks)
        return f"; name one:{''.join(lines)}"
    options = f"--cache {shlex.quote(error.root)}"
    lines = (f"\n  pipeline teacher --task {task} {options}" for task in list_tasks())
    return f"; make one, or finish one by the command that began it:{''.join(lines)}"
