"""The commands that make again what a report shows, and what they were run with."""

from __future__ import annotations

import shlex
from typing import Any

from cache.directory import Cache
from cache.stores import LocalPlace, Place
from stages.report.cells import UNKNOWN
from stages.report.collect import Findings
from stages.report.runs import Run
from stages.tasks import list_tasks


def list_commands(found: Findings) -> list[str]:
    """Return the commands that make the caches, the students and their evaluations."""
    teachers = [format_teacher_command(cache) for cache in found.caches.values()]
    students = [format_student_command(run, found.root) for run in found.runs]
    measured = [run for run in found.runs if (run.evaluation or {}).get("data")]
    alone = [
        _join(
            "pipeline evaluate",
            {"teacher": evaluation.get("teacher_name"), "task": task, "data": evaluation["data"]},
        )
        for task, evaluation in found.teachers.items()
        if not evaluation.get("student") and evaluation.get("data")
    ]
    return [*teachers, *students, *alone, *map(format_evaluation_command, measured)]


def format_student_command(run: Run, root: str) -> str:
    """Return the command that trains a student.

    What a record does not say is left to the command's own defaults.

    Args:
        run: The student.
        root: Root of the caches.
    """
    training, record = run.training, run.record
    # A task of one's own is known by name only, not where its file lies.
    named = run.task if run.task in list_tasks() else f"{run.task}.yaml"
    options: dict[str, Any] = {"task": named, "arch": record.get("arch"),
                               "init": record.get("init")}  # fmt: skip
    if run.approach == "direct":
        options |= {"labels": "gold", "texts": record.get("texts")}
        options["model"] = record.get("words_of")
    else:
        options |= {"cache": root, "from": run.fingerprint[:12] or None}
        options["objective"] = training.get("objective")
    names = ("steps", "batch_size", "lengths_per_batch", "learning_rate", "log_every", "seed")
    options |= {name.replace("_", "-"): training.get(name) for name in names}
    options |= {"held-out-rows": record["held_out"]["rows"], "out": run.path}
    return _join("pipeline student", options) + (" --partial" if record.get("partial") else "")


def format_evaluation_command(run: Run) -> str:
    """Return the command that measured a student on labelled texts."""
    found = run.evaluation or {}
    options = {
        "model": run.path,
        "teacher": found.get("teacher_name"),
        "data": found.get("data"),
        "metrics": found.get("file"),
    }
    return _join("pipeline evaluate", options)


def list_versions(found: Findings) -> list[str]:
    """Say what the students were trained with: a line for each combination of versions."""
    counts: dict[str, int] = {}
    for run in found.runs:
        versions = run.record.get("versions") or {}
        told = ", ".join(f"{name}: {value}" for name, value in versions.items())
        counts[told or UNKNOWN] = counts.get(told or UNKNOWN, 0) + 1
    unknown = counts.pop(UNKNOWN, 0)
    lines = [f"{told} ({count} of {len(found.runs)} students)" for told, count in counts.items()]
    if unknown:
        lines.append(f"{unknown} of {len(found.runs)} students do not say their versions")
    return lines


def _join(command: str, options: dict[str, Any]) -> str:
    given = (
        f"--{name} {shlex.quote(str(value))}"
        for name, value in options.items()
        if value not in (None, "")
    )
    return " ".join((command, *given))


def format_teacher_command(cache: Cache) -> str:
    """Return the command that computes what is missing of a cache, or begins it anew elsewhere.

    What a manifest does not know is left to whoever types it: where the file of a task of one's
    own lies, and which column texts were taken from.
    """
    inputs, notes, layout = cache.manifest.inputs, cache.manifest.notes, cache.layout
    try:
        task, sampler, compute = inputs["task"]["name"], inputs["sampler"], inputs["compute"]
        # A task of one's own is known by name only, not where its file lies.
        named = task if task in list_tasks() else f"{task}.yaml"
        options = {"task": named, "model": notes["model"]}
        if notes.get("source"):
            options["texts"] = notes["source"]
        else:
            options |= {"sampler": sampler["name"], "rows": layout.rows, "seed": sampler["seed"]}
            options["lengths"] = sampler["lengths"]["kind"]
            options["min-length"] = sampler["lengths"]["minimum"]
            for name, value in sampler.get("writing", {}).items():
                options[name.replace("_", "-")] = value
        if "self_generated" in notes:
            options["own-texts"] = notes["self_generated"]
        options |= {
            "device": compute["device"],
            "dtype": compute["dtype"],
            "chunk-rows": layout.chunk_rows,
            "shard-rows": layout.shard_rows,
            "batch-positions": compute["batch_positions"],
            "compile": compute["compile"],
            "quantise": compute["weights"],
            "cache": _root_of(cache.place, task),
        }
    except (KeyError, TypeError):
        return "pipeline teacher with the settings that the cache was made with"
    given = (f"--{name} {shlex.quote(str(value))}" for name, value in options.items())
    chat = ["--chat"] if "chat" in inputs else []
    return " ".join(["pipeline teacher", *given, *chat])


def _root_of(place: Place, task: str) -> str:
    # A cache that was moved away from where the teacher puts them has no root.
    if isinstance(place, LocalPlace):
        folder = place.path.absolute().parent
        return str(place.path.parent.parent) if folder.name == task else "ROOT"
    folder_url, _, name = place.url.rpartition("/")[0].rpartition("/")
    return folder_url if name == task else "ROOT"
