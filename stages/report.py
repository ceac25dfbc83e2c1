"""What there is to report: students, what they were measured on, and the caches they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cache.errors import CacheError
from cache.store import Cache
from stages.caches import open_named_cache
from stages.errors import CacheChoiceError, ExportError, ReportError, SettingError
from stages.records import RECORD, read_record

APPROACHES = {
    "direct": "direct training on labelled texts",
    "texts": "distilled on training texts",
    "self": "distilled on the teacher's own texts",
    "self-labelled": "the same, a label named in the prompt",
    "algorithm-1": "projection, uniform inputs, Algorithm 1",
    "projection": "projection, random inputs, no text",
}
"""Ways to a student, in the order of the paper's Table 1, ours last."""


@dataclass(frozen=True)
class Run:
    """A student.

    Attributes:
        path: Its directory.
        record: What it was trained from and how.
        evaluation: What it scored on labelled texts; None where that was not measured.
    """

    path: Path
    record: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record["task"]["name"])

    @property
    def approach(self) -> str:
        """A key of :data:`APPROACHES`."""
        sampler = self.record.get("sampler", "")
        if self.record.get("labels") == "gold":
            return "direct"
        if sampler in ("texts", "self", "self-labelled"):
            return str(sampler)
        letter = sampler == "uniform" and self.training.get("objective") == "algorithm-1"
        return "algorithm-1" if letter else "projection"

    @property
    def arch(self) -> str:
        """The encoder, without the path to it."""
        return Path(str(self.record.get("arch", "?"))).name

    @property
    def training(self) -> Mapping[str, Any]:
        """How it was trained."""
        found: Mapping[str, Any] = self.record.get("training") or {}
        return found

    @property
    def seed(self) -> int:
        """Seed of its start and of the order of its rows."""
        return int(self.training.get("seed", 0))

    @property
    def own(self) -> float | None:
        """Agreement with the teacher on texts that it wrote itself."""
        found = self.record.get("own_texts")
        return float(found["agreement"]) if found else None

    def score(self, name: str) -> float | None:
        """Return ``accuracy`` or ``macro_f1`` on labelled texts."""
        scores = (self.evaluation or {}).get("student")
        return float(scores[name]) if scores else None

    def seconds(self, part: str) -> float | None:
        """Return the seconds of its ``preparation`` or ``training``, where they are known."""
        if part == "training":
            found = (self.record.get("seconds") or {}).get("training")
        else:
            found = (self.record.get("preparation") or {}).get("seconds")
        return None if found is None else float(found)


@dataclass(frozen=True)
class Group:
    """Students that differ by nothing but the seed and the task.

    Attributes:
        approach: A key of :data:`APPROACHES`.
        arch: The encoder.
        name: What a table calls it.
        runs: The students by task, in the order of their seeds.
    """

    approach: str
    arch: str
    name: str
    runs: Mapping[str, tuple[Run, ...]]


@dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
        runs: The students.
        teachers: Evaluations of the teacher itself, by task.
        caches: The caches that are there, by fingerprint.
        published: Figures to put beside; empty where none were given.
        faults: What is missing or unreadable, a sentence each.
    """

    runs: tuple[Run, ...]
    teachers: Mapping[str, Mapping[str, Any]]
    caches: Mapping[str, Cache]
    published: Mapping[str, Any]
    faults: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names in alphabetical order."""
        return tuple(sorted({run.task for run in self.runs}))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The students as rows of a table, in the order of :data:`APPROACHES`."""
        several = {
            run.approach
            for run in self.runs
            for other in self.runs
            if run.approach == other.approach and _settings(run) != _settings(other)
        }
        found: dict[tuple[str, str, tuple[str, ...]], dict[str, list[Run]]] = {}
        order = sorted(
            self.runs,
            key=lambda run: (list(APPROACHES).index(run.approach), run.arch, run.seed),
        )
        for run in order:
            key = (run.approach, run.arch, _settings(run) if run.approach in several else ())
            found.setdefault(key, {}).setdefault(run.task, []).append(run)
        return tuple(
            Group(
                approach,
                arch,
                ", ".join([APPROACHES[approach], arch, *settings]),
                {task: tuple(own) for task, own in runs.items()},
            )
            for (approach, arch, settings), runs in found.items()
        )

    @property
    def main_arch(self) -> str | None:
        """The encoder of most students without text; the others are the smaller ones."""
        archs = [run.arch for run in self.runs if run.approach == "projection"]
        archs = archs or [run.arch for run in self.runs]
        return max(sorted(set(archs)), key=archs.count, default=None)


def collect(
    students: Sequence[Path], evaluations: Sequence[Path], cache: str | Path, published: Path | None
) -> Findings:
    """Read everything below these directories.

    Args:
        students: Directories with students anywhere below.
        evaluations: Directories with what ``pipeline evaluate --metrics`` wrote.
        cache: Root of the caches.
        published: A file of figures to put beside.

    Raises:
        ReportError: There is no student and no evaluation.
        SettingError: The file of published figures is not one.
    """
    faults: list[str] = []
    scores, teachers = _read_evaluations(evaluations, faults)
    runs = []
    for root in students:
        for path in sorted(root.rglob(RECORD)):
            try:
                record = read_record(path.parent)
            except ExportError as error:
                faults.append(str(error))
                continue
            if not _is_whole(record):
                faults.append(f"{path} does not say what a report needs of a student")
                continue
            score = _match(path.parent, root, scores)
            if score is None:
                faults.append(f"{path.parent} was not measured on labelled texts")
            runs.append(Run(path.parent, record, score))
    if not runs and not teachers:
        where = ", ".join(map(str, (*students, *evaluations)))
        raise ReportError(f"there is nothing to report below {where}; train a student first")
    caches = _find_caches(runs, cache, faults)
    found = Findings(tuple(runs), teachers, caches, _read_published(published), ())
    faults += _find_gaps(found)
    return Findings(found.runs, teachers, caches, found.published, tuple(faults))


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Whether what is read of a record without asking is there."""
    try:
        held = record["held_out"]
        return bool(
            0 <= float(held["agreement"]) <= 1 <= int(held["rows"]) and record["task"]["name"]
        )
    except (KeyError, TypeError, ValueError):
        return False


def _settings(run: Run) -> tuple[str, ...]:
    """Return what else may differ between students of one approach, in words."""
    sampler, objective = run.record.get("sampler", ""), run.training.get("objective", "kl")
    own = [f"`{sampler}`"] if run.approach == "projection" else []
    return (*own, *([objective] if objective != "kl" and run.approach != "algorithm-1" else []))


def _read_evaluations(
    roots: Sequence[Path], faults: list[str]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, Mapping[str, Any]]]:
    """Return students' evaluations by what they are known by, and teachers' by task."""
    scores: dict[str, Mapping[str, Any]] = {}
    teachers: dict[str, Mapping[str, Any]] = {}
    for root in roots:
        for path in sorted(root.rglob("*.json")):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(found, dict) or "rows" not in found:
                    raise ValueError
            except (OSError, ValueError):
                faults.append(f"{path} is no evaluation")
                continue
            if found.get("teacher"):
                task = _task_of(path, root, found)
                teachers.setdefault(task, found)
            if found.get("student"):
                scores[str(found.get("model") or path.relative_to(root).with_suffix(""))] = found
    return scores, teachers


def _task_of(path: Path, root: Path, found: Mapping[str, Any]) -> str:
    """Return the task of an evaluation: its own word for it, or where it lies."""
    if found.get("task"):
        return str(found["task"])
    inside = path.relative_to(root)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem.rpartition("-")[0]


def _match(folder: Path, root: Path, scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
    inside = str(folder.relative_to(root))
    for known in (str(folder), inside, folder.name):
        if known in scores:
            return dict(scores[known])
    return None


def _find_caches(runs: Sequence[Run], root: str | Path, faults: list[str]) -> dict[str, Cache]:
    found: dict[str, Cache] = {}
    wanted = {str(run.record["fingerprint"]): run for run in runs if run.record["fingerprint"]}
    for fingerprint, run in wanted.items():
        try:
            found[fingerprint] = open_named_cache(root, run.task, fingerprint)
        except (CacheChoiceError, CacheError):
            faults.append(f"the cache {fingerprint[:12]} of {run.path} is not below {root}")
    return found


def _read_published(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        for row in (*found["accuracy"], *found.get("cost", ())):
            if row["approach"] not in APPROACHES:
                raise ValueError(f"unknown approach {row['approach']!r}")
        return {"source": str(found["source"]), **found}
    except OSError as error:
        raise SettingError(f"published figures: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"published figures: {path} is not as it must be: {reason}") from error


def _find_gaps(found: Findings) -> list[str]:
    faults = []
    groups = found.groups
    most = max((len(runs) for group in groups for runs in group.runs.values()), default=0)
    for group in groups:
        for task in found.tasks:
            count = len(group.runs.get(task, ()))
            if count == 0:
                faults.append(f"{task}: no student of “{group.name}”")
            elif count < most:
                faults.append(f"{task}: {count} of {most} seeds of “{group.name}”")
    there = {(g.approach, g.arch != found.main_arch) for g in groups}
    for row in found.published.get("accuracy", ()):
        if (row["approach"], bool(row.get("small"))) not in there:
            small = ", a smaller encoder" if row.get("small") else ""
            faults.append(f"no student of “{APPROACHES[row['approach']]}{small}” at all")
    faults += [f"{task}: the teacher itself was not measured" for task in found.tasks
               if task not in found.teachers]  # fmt: skip
    return faults
