"""What there is to report: students, evaluations, and what is missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from stages.classify import is_onnx
from stages.errors import ReportError
from stages.records import RECORD
from stages.report.runs import Evaluation, Group, Run, Strict, describe_flaw, group_runs

Document = TypeVar("Document", bound=Strict)


@dataclass(frozen=True)
class Findings:
    """All that was found."""

    runs: Sequence[Run]
    teachers: Mapping[str, Evaluation]  # of the teacher itself, by task
    faults: Sequence[str]  # what is missing or unreadable, a sentence each

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks' names in alphabetical order."""
        return sorted({run.task for run in self.runs} | self.teachers.keys())

    @cached_property
    def groups(self) -> list[Group]:
        """The students as rows of a table."""
        return group_runs(self.runs)

    @cached_property
    def usual_seeds(self) -> int:
        """How many students a row of a table has for a task at the most."""
        return max((len(runs) for group in self.groups for runs in group.runs.values()), default=0)


def collect(students: Sequence[Path], evaluations: Sequence[Path]) -> Findings:
    """Read students and evaluations below these directories; ReportError if there is nothing."""
    faults: list[str] = []
    runs = _drop_copies(_read(students, RECORD, Run, faults), faults)
    scored = _read(evaluations, "*.json", Evaluation, faults)
    teachers = _find_teachers(scored, faults)
    if not runs and not teachers:
        where = ", ".join(map(str, (*students, *evaluations)))
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        why = f"{faults[0]}{more}" if faults else "train a student first"
        raise ReportError(f"there is nothing to report below {where}: {why}")
    runs = _match(runs, scored, faults)
    unmeasured = [run.path for run in runs if run.evaluation is None]
    faults += [f"{path} was not measured on labelled texts" for path in unmeasured]
    untaught = sorted({run.task for run in runs} - teachers.keys())
    faults += [f"{task}: the teacher itself was not measured" for task in untaught]
    found = Findings(runs, teachers, faults)
    faults += [
        f"{task}: {number} of {found.usual_seeds} seeds of “{group.name}”"
        for group in found.groups
        for task in sorted({run.task for run in runs})
        if (number := len(group.runs.get(task, ()))) < found.usual_seeds
    ]
    return found


def _read(
    roots: Sequence[Path], pattern: str, kind: type[Document], faults: list[str]
) -> list[Document]:
    """Read the files below some directories, each once."""
    found = []
    files = {file.resolve(): file for root in reversed(roots) for file in root.rglob(pattern)}
    for file in sorted(files.values()):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            found.append(kind.model_validate(data | {"file": file}))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            faults.append(f"{file} is not what it must be: {describe_flaw(error)}")
    return found


def _drop_copies(runs: Sequence[Run], faults: list[str]) -> list[Run]:
    """Leave copies of a student out, so that a seed counts once."""
    kept: dict[str, Run] = {}
    for run in runs:
        first = kept.setdefault(run.identity or str(run.path), run)
        if first is not run:
            faults.append(f"{run.path} is the same student as {first.path}: left out")
    return list(kept.values())


def _find_teachers(scored: Sequence[Evaluation], faults: list[str]) -> dict[str, Evaluation]:
    """Return an evaluation of the teacher by task; one of the teacher alone is preferred."""
    found: dict[str, Evaluation] = {}
    for one in sorted(scored, key=lambda one: one.accuracy is not None):
        if one.teacher_accuracy is None or one.task is None:
            continue
        first = found.setdefault(one.task, one)
        if first.teacher_accuracy != one.teacher_accuracy:
            faults.append(f"{one.file}: the teacher has other scores in {first.file}, which count")
    return found


def _match(runs: Sequence[Run], scored: Sequence[Evaluation], faults: list[str]) -> list[Run]:
    """Give each student the evaluation that is of it."""
    found: dict[Path, Evaluation] = {}
    for one in (one for one in scored if one.accuracy is not None):
        run = next((run for run in runs if _is_of(one, run)), None)
        if run is None:
            name = one.model or "a student that it does not name"
            faults.append(f"{one.file} is of {name}: not among these, or trained anew since")
        elif (first := found.setdefault(run.path, one)) is not one:
            faults.append(f"{one.file} is a second evaluation of {run.path}; {first.file} counts")
    return [run.model_copy(update={"evaluation": found.get(run.path)}) for run in runs]


def _is_of(one: Evaluation, run: Run) -> bool:
    if one.model is None or one.task not in (None, run.task):
        return False
    # A student may have been moved.  An ONNX file has the student's identity, but may be rounded.
    if one.identity and not is_onnx(Path(one.model)):
        return one.identity == run.identity
    return Path(one.model).resolve() == run.path.resolve()
