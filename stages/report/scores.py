"""What `pipeline evaluate --metrics` wrote: whose scores they are, and the teachers' own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.report.runs import is_share


@dataclass(frozen=True)
class Scored:
    """An evaluation.

    Attributes:
        path: Its file.
        inside: That file within the directory that was given, without its suffix.
        found: Its contents.
    """

    path: Path
    inside: Path
    found: Mapping[str, Any]

    def fits(self, folder: Path, root: Path, task: str) -> int:
        """Return how well it fits a student; 0: not at all.

        Args:
            folder: The student's directory.
            root: The directory that was given, below which it lies.
            task: The student's task.
        """
        if self.found.get("task") not in (None, task):
            return 0
        below = folder.relative_to(root).parts or (folder.name,)
        model = self.found.get("model")
        if model is not None:
            typed = Path(model)
            if typed.resolve() == folder.resolve():
                return 3
            # Students that were moved together are still found by their place below the others.
            return 2 if typed.parts[-len(below) :] == below and not typed.exists() else 0
        if self.inside.parts == below:
            return 2
        return 1 if self.inside.name == folder.name else 0


def read_evaluations(roots: Sequence[Path], faults: list[str]) -> list[Scored]:
    """Read every evaluation below some directories.

    Args:
        roots: The directories.
        faults: Gets a sentence for each file that is none.
    """
    found = []
    for root in roots:
        for path in sorted(root.rglob("*.json")):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                data = None
            if not _is_evaluation(data):
                faults.append(f"{path} is no evaluation, or a damaged one")
            elif not data.get("student") and not data.get("teacher"):
                faults.append(f"{path} has no scores on labelled texts")
            else:
                found.append(Scored(path, path.relative_to(root).with_suffix(""), data))
    return found


def match_evaluations(
    students: Mapping[Path, tuple[Path, Mapping[str, Any]]],
    scored: Sequence[Scored],
    faults: list[str],
) -> dict[Path, Mapping[str, Any]]:
    """Find out which evaluation is of which student.

    Args:
        students: By their directories the directory given above each, and its record.
        scored: The evaluations.
        faults: Gets a sentence for each one that is of no student here, of several, of what was
            there before the student, or fits its student no better than another.

    Returns:
        The evaluation of each student's directory that has one, with its ``file``.
    """
    found: dict[Path, Mapping[str, Any]] = {}
    fitting: list[tuple[int, Scored, list[Path]]] = []
    for one in scored:
        if not one.found.get("student"):
            continue
        fits = [
            (one.fits(folder, root, str(record["task"]["name"])), folder)
            for folder, (root, record) in students.items()
        ]
        best = max((fit for fit, _ in fits), default=0)
        fitting.append((best, one, [folder for fit, folder in fits if fit == best and best]))
    for _, one, folders in sorted(fitting, key=lambda each: -each[0]):
        named = one.found.get("model")
        if not folders:
            faults.append(f"{one.path} is of {named or 'a student'}, which is not among these")
        elif len(folders) > 1:
            faults.append(f"{one.path} may be of {' or '.join(map(str, folders))}: left out")
        elif one.found.get("identity") not in (None, students[folders[0]][1].get("identity")):
            faults.append(
                f"{one.path} is of a student that was in {folders[0]} before: measure it again"
            )
        elif folders[0] in found:
            faults.append(
                f"{one.path} is a second evaluation of {folders[0]}; "
                f"{found[folders[0]]['file']} counts"
            )
        else:
            found[folders[0]] = {**one.found, "file": str(one.path)}
    return found


def find_teachers(scored: Sequence[Scored], faults: list[str]) -> dict[str, Mapping[str, Any]]:
    """Return the evaluations of teachers by task; one of the teacher alone is preferred.

    Args:
        scored: The evaluations.
        faults: Gets a sentence for each one whose scores are not those that count.
    """
    found: dict[str, Scored] = {}
    for one in sorted(scored, key=lambda one: bool(one.found.get("student"))):
        if not one.found.get("teacher"):
            continue
        task = _find_task(one)
        if not task:
            faults.append(f"{one.path} does not say of which task the teacher's scores are")
            continue
        first = found.setdefault(task, one)
        if first.found["teacher"]["accuracy"] != one.found["teacher"]["accuracy"]:
            faults.append(
                f"{one.path} gives the teacher other scores than {first.path}, which counts"
            )
    return {task: one.found for task, one in found.items()}


def _find_task(one: Scored) -> str:
    """Return the task of an evaluation: its own word for it, or where it lies."""
    if one.found.get("task"):
        return str(one.found["task"])
    return one.inside.parts[0] if len(one.inside.parts) > 1 else one.inside.name.rpartition("-")[0]


def _is_evaluation(data: Any) -> bool:
    if not isinstance(data, Mapping) or "rows" not in data:
        return False
    for who in ("student", "teacher"):
        scores = data.get(who)
        if scores is not None and not (
            isinstance(scores, Mapping)
            and is_share(scores.get("accuracy"))
            and is_share(scores.get("macro_f1"))
        ):
            return False
    agreement = data.get("agreement")
    texts = (data.get(name) for name in ("task", "model", "data", "teacher_name", "identity"))
    return (agreement is None or is_share(agreement)) and all(
        text is None or (isinstance(text, str) and "\0" not in text) for text in texts
    )
