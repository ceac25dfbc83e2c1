"""Types and options that several commands share, and which task is meant where none is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.errors import PlaceError, TaskChoiceError
from cache.paths import expand_path
from pipeline.console import Console

if TYPE_CHECKING:
    from stages.tasks import Task

SAMPLERS = ("unigram", "vocabulary", "uniform", "self", "self-labelled", "self-noisy")

Decorator = Callable[[Any], Any]
COUNT = click.IntRange(min=1)


class PathType(click.Path):
    """A path, read as every path is read; names and hub ids pass, URLs where they may be."""

    def __init__(self, remote: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self._remote = remote
        self.name = self.name if "path_type" in more else "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was typed."""
        try:
            given = expand_path(value, self._remote) if isinstance(value, str) else value
        except PlaceError as error:
            self.fail(str(error), param, ctx)
        return super().convert(given, param, ctx)


PATH = PathType(path_type=Path)
FILE = PathType(path_type=Path, dir_okay=False)
NAMED = PathType()  # a name, a hub id, a path
PLACE = PathType(remote=True)


def count(name: str, default: int, text: str) -> Decorator:
    """Return an option that takes a whole number from 1."""
    return click.option(name, type=COUNT, default=default, help=text)


def choice(name: str, values: tuple[str, ...], text: str) -> Decorator:
    """Return an option that takes one of some values, by default the first."""
    return click.option(name, type=click.Choice(values), default=values[0], help=text)


def path(name: str, text: str, kind: PathType = PATH, **more: Any) -> Decorator:
    """Return an option that takes a path."""
    return click.option(name, type=kind, help=text, **more)


def seed(text: str) -> Decorator:
    """Return the option for a seed, which is kept as a signed number of 64 bits."""
    return click.option(
        "--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, metavar="INTEGER", help=text
    )


def threshold(text: str) -> Decorator:
    """Return the option for a least score, which is checked here as NaN passes ``FloatRange``."""

    def check(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
        if value is not None and not 0 <= value <= 1:
            raise click.BadParameter(f"got {value}, must be in [0, 1]")
        return value

    return click.option("--threshold", type=float, callback=check, help=text)


def _set_threads(_: click.Context, __: click.Parameter, threads: int | None) -> None:
    """Settle how many threads compute, before a library that asks the environment is imported."""
    from stages.devices import count_cpus

    if threads is None and os.environ.get("OMP_NUM_THREADS"):
        return
    threads = threads or count_cpus()
    # For torch and onnxruntime, and for tokenizers.
    os.environ |= {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


THREADS = click.option(
    "--threads",
    type=COUNT,
    callback=_set_threads,
    expose_value=False,
    show_default="OMP_NUM_THREADS, or the CPUs that this process may use",
    help="Threads that compute on the CPU.",
)


def require_task(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Return a task's name or path; without one, list what could be typed."""
    if value is not None or context.resilient_parsing:
        return value
    from pipeline.hints import format_again
    from stages.tasks import list_tasks

    option = "--task" if isinstance(parameter, click.Option) else ""
    lines = "".join(format_again(task, option) for task in list_tasks())
    missing = f"Missing option {option!r}" if option else "Missing argument 'NAME'"
    raise click.UsageError(f"{missing}; there are these, and the path of a file of yours:{lines}")


def choose_task(settings: dict[str, Any], console: Console) -> Task:
    """Return the task of the cache that is named, or the only one with a complete cache; say which.

    CacheError: there is none, or several could be meant; it lists them.
    """
    from cache.lookup import find_cache, list_usable
    from stages.errors import SettingError, Settings
    from stages.tasks import list_tasks, restore_task

    root, source = settings["cache"], next(iter(settings.get("source") or ()), None)
    partial = settings.get("partial", False)
    if settings.get("labels") == "gold" and source is None:
        fault = "the labels gold are of a task, and no cache says which"
        raise TaskChoiceError(fault, root, list_tasks())
    cache = find_cache(root, None, source, partial)
    task = restore_task(cache.manifest.inputs.get("task"), str(cache.place))
    there = [] if source else list_usable(root, task.name, True)
    asked = {tuple(it.manifest.inputs["task"][key] for key in ("prompt", "suffix")) for it in there}
    if len(asked) > 1:
        fault = f"there are caches of {len(asked)} prompts of {task.name}; give the task's file"
        raise SettingError(fault, Settings(("task",)))
    task = replace(task, prior=str(cache.manifest.notes.get("prior", task.prior)))
    kind = "a cache" if partial else "a complete cache"
    why = f"that of {cache.place}" if source else f"the only one with {kind} below {root}"
    console.say(f"task: {task.name} ({why})")
    return task


_TASK = "Name of a bundled task, or path of a task's YAML file."
_ONLY = "the only one with a complete cache"
TASK = click.option("--task", type=NAMED, metavar="TASK", callback=require_task, help=_TASK)
CACHED_TASK = click.option("--task", type=NAMED, metavar="TASK", show_default=_ONLY, help=_TASK)
MODEL = click.option(
    "--model",
    type=NAMED,
    default="auto",
    help="Language model: mini, a hub id, a directory, a GGUF file, or auto, which takes "
    "Llama-2-7b where a CUDA device has room for it and mini otherwise.",
)
TEXT_COLUMN = click.option(
    "--text-column", default="text", help="Column, or key in JSON, that holds the text."
)
LABEL_COLUMN = click.option(
    "--label-column", default="label", help="Column, or key in JSON, that holds the label."
)
LABEL_MAP = click.option(
    "--label-map",
    default="",
    metavar="LABEL=NAME,...",
    help="Which of the task's labels those of the texts stand for, such as 1=positive,0=negative.",
)
CACHE = click.option(
    "--cache",
    type=PLACE,
    default="data/cache",
    metavar="ROOT",
    help="Where caches lie: a directory, or s3://bucket/prefix.",
)
DEVICE = click.option(
    "--device", default="auto", help="Device to compute on: auto, cpu, cuda or cuda:N."
)
DTYPE = click.option(
    "--dtype",
    default="auto",
    help="Number format that the teacher computes in: auto, float32, bfloat16 or float16.",
)
CHAT = click.option(
    "--chat", is_flag=True, help="Put the teacher's prompt through the model's chat template."
)
QUANTISE = choice(
    "--quantise",
    ("none", "int8", "fp8"),
    "Format of the teacher's weights; int8 and fp8 need the extra 'quantised'.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def parse_positions(value: str) -> int | None:
    """Return a whole number from 1, or None for ``auto``."""
    return None if value == "auto" else COUNT(value)


def parse_samplers(value: str) -> str:
    """Return a sampler, or a mixture with shares, as given; shares are checked when it is used."""
    for part in value.split(",") if value != "auto" else ():
        name = part.partition("=")[0].strip()
        if name not in SAMPLERS:
            known = ", ".join(map(repr, SAMPLERS))
            raise click.BadParameter(f"{name!r} is none of {known}; 'auto' stands alone")
    return value
