"""What there is to report: students, what they were measured on, and the caches they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cache.errors import CacheChoiceError, CacheError
from cache.lookup import open_named_cache
from cache.opening import Cache
from cache.reader import CacheReader
from stages.errors import ExportError, ReportError, SettingError
from stages.records import RECORD, read_record
from stages.report.runs import APPROACHES, Group, Run, find_flaw, group_runs, is_number
from stages.report.scores import find_teachers, match_evaluations, read_evaluations
from stages.student import sum_seconds

COST = ("task", "preparation", "training")
"""What a published cost says besides its approach."""


@dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
        runs: The students.
        teachers: Evaluations of the teacher itself, by task.
        caches: The caches that are there, by fingerprint.
        root: Root of the caches.
        published: Figures to put beside; empty where none were given.
        faults: What is missing or unreadable, a sentence each.
    """

    runs: tuple[Run, ...]
    teachers: Mapping[str, Mapping[str, Any]]
    caches: Mapping[str, Cache]
    root: str
    published: Mapping[str, Any]
    faults: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names in alphabetical order."""
        return tuple(sorted({run.task for run in self.runs} | set(self.teachers)))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The students as rows of a table."""
        return group_runs(self.runs)

    @property
    def main_arch(self) -> str | None:
        """The encoder of most students without text; the others are the smaller ones."""
        archs = [run.arch for run in self.runs if run.approach == "projection"]
        archs = archs or [run.arch for run in self.runs]
        return max(sorted(set(archs)), key=archs.count, default=None)

    @property
    def usual_seeds(self) -> int:
        """How many students a row of a table has for a task at the most."""
        return max((len(runs) for group in self.groups for runs in group.runs.values()), default=0)

    def find_published(self, group: Group, what: str) -> Mapping[str, Any]:
        """Return the published row of a group's approach; empty where there is none.

        Args:
            group: The group.
            what: ``accuracy`` or ``cost``.
        """
        small = group.arch != self.main_arch
        for row in self.published.get(what) or ():
            if row["approach"] == group.approach and bool(row.get("small")) == small:
                return dict(row)
        return {}


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
        ReportError: There is no student and no evaluation of a teacher.
        SettingError: The file of published figures is not one.
    """
    faults: list[str] = []
    beside = _read_published(published)
    records = _read_students(students, faults)
    scored = read_evaluations(evaluations, faults)
    scores = match_evaluations(records, scored, faults)
    teachers = find_teachers(scored, faults)
    runs = _drop_copies(
        [Run(path, record, scores.get(path)) for path, (_, record) in records.items()], faults
    )
    if not runs and not teachers:
        where = ", ".join(map(str, (*students, *evaluations)))
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        why = f"{faults[0]}{more}" if faults else "train a student first"
        raise ReportError(f"there is nothing to report below {where}: {why}")
    caches = _find_caches(runs, cache, faults)
    seconds = _measure_caches(caches, faults)
    for number, run in enumerate(runs):
        rows, taken = seconds.get(run.fingerprint, (None, None))
        if rows is not None and run.record.get("rows") == rows:
            runs[number] = replace(run, prepared=taken)
    found = Findings(tuple(runs), teachers, caches, str(cache), beside, ())
    return replace(found, faults=(*faults, *_find_gaps(found)))


def _read_students(
    roots: Sequence[Path], faults: list[str]
) -> dict[Path, tuple[Path, Mapping[str, Any]]]:
    """Return the students' records by directory, each with the root that it lies below."""
    found: dict[Path, tuple[Path, Mapping[str, Any]]] = {}
    seen: set[Path] = set()
    for root in roots:
        for path in sorted(root.rglob(RECORD)):
            folder = path.parent
            if folder.resolve() in seen:  # it lies below two of the roots
                continue
            seen.add(folder.resolve())
            try:
                record = read_record(folder)
            except (ExportError, RecursionError) as error:
                faults.append(str(error))
                continue
            if (flaw := find_flaw(record)) is not None:
                faults.append(f"{path} does not say what it must of {flaw}")
                continue
            found[folder] = root, record
    return found


def _drop_copies(runs: Sequence[Run], faults: list[str]) -> list[Run]:
    """Leave copies of a student out, so that a seed counts once."""
    kept: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.evaluation is None):
        first = kept.setdefault(str(run.record.get("identity") or run.path), run)
        if first is not run:
            faults.append(f"{run.path} is the same student as {first.path}: left out")
    left = [run for run in runs if run in kept.values()]
    faults += [
        f"{run.path} was not measured on labelled texts" for run in left if run.evaluation is None
    ]
    return left


def _find_caches(runs: Sequence[Run], root: str | Path, faults: list[str]) -> dict[str, Cache]:
    found: dict[str, Cache] = {}
    wanted: dict[str, list[Run]] = {}
    for run in runs:
        if run.fingerprint:
            wanted.setdefault(run.fingerprint, []).append(run)
    for fingerprint, users in wanted.items():
        of = f"the cache {fingerprint[:12]} of {users[0].path}"
        if len(users) > 1:
            of += f" and {len(users) - 1} more"
        try:
            found[fingerprint] = open_named_cache(root, users[0].task, fingerprint)
        except CacheChoiceError:
            faults.append(f"{of} is not below {root}")
        except CacheError as error:
            faults.append(f"{of} cannot be read: {error}")
    return found


def _measure_caches(caches: Mapping[str, Cache], faults: list[str]) -> dict[str, tuple[int, float]]:
    """Return the rows of whole caches and the seconds that they took, by fingerprint.

    A cache may have been filled anew since its students were trained.
    """
    found = {}
    for fingerprint, cache in caches.items():
        try:
            found[fingerprint] = cache.layout.rows, sum_seconds(CacheReader(cache))
        except CacheError as error:
            faults.append(f"the cache {fingerprint[:12]} cannot be read whole: {error}")
    return found


def _read_published(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        for row in (*found["accuracy"], *(found.get("cost") or ())):
            if row["approach"] not in APPROACHES:
                raise ValueError(f"unknown approach {row['approach']!r}")
        for row in found.get("cost") or ():
            if not all(isinstance(row[name], str) for name in COST):
                raise ValueError(f"cost of {row['approach']}: {', '.join(COST)} must be words")
        for row in found["accuracy"]:
            for task in row.keys() - {"approach", "small"}:
                pair = row[task]
                if len(pair) != 2 or not all(x is None or is_number(x) for x in pair):
                    raise ValueError(f"{task}: {pair!r} is not [accuracy, macro-F1]")
        return {**found, "source": str(found["source"]), "note": str(found.get("note") or "")}
    except OSError as error:
        raise SettingError(f"published figures: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"published figures: {path} is not as it must be: {reason}") from error


def _find_gaps(found: Findings) -> list[str]:
    """Say which students one would expect beside those that are there."""
    faults = []
    recipes: dict[tuple[str, str], set[str]] = {}
    for group in found.groups:
        recipes.setdefault((group.approach, group.arch), set()).update(group.runs)
        for task, runs in group.runs.items():
            if len(runs) < found.usual_seeds:
                faults.append(f"{task}: {len(runs)} of {found.usual_seeds} seeds of “{group.name}”")
    trained = sorted({run.task for run in found.runs})
    for (approach, arch), tasks in recipes.items():
        faults += [
            f"{task}: no student of “{APPROACHES[approach]}, {arch}”"
            for task in trained
            if task not in tasks
        ]
    there = {(approach, arch != found.main_arch) for approach, arch in recipes}
    published: set[str] = set()
    for row in found.published.get("accuracy") or ():
        published |= row.keys() - {"approach", "small"}
        if (row["approach"], bool(row.get("small"))) not in there:
            small = ", a smaller encoder" if row.get("small") else ""
            faults.append(f"no student of “{APPROACHES[row['approach']]}{small}” at all")
    faults += [f"{task}: published, but no student here" for task in sorted(published - {*trained})]
    faults += [
        f"{task}: the teacher itself was not measured"
        for task in trained
        if task not in found.teachers
    ]
    return faults
