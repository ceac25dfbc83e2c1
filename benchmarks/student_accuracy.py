"""What a student loses in other forms, on full test files: a section of ``benchmarks.student``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.student_rivals import read_columns, train_on
from benchmarks.student_speed import FORMS, open_form
from stages.publishing import ExportConfig, export_student
from stages.records import read_record
from stages.reporting import SilentReporter
from stages.scores import compute_scores
from stages.task import load_task
from stages.texts import read_texts

WANTED = 0.5
"""Points that may be lost at most."""

PART = 2048

ACCURACY = """\
Students as `make results` trains them, on random inputs; those that were there are used.  Accuracy
and macro-F1 in per cent on all texts of the test files; the difference to torch is in points of
accuracy.  TF-IDF + logistic regression is trained on the gold labels of the training files, which
students never see.
"""


@dataclass(frozen=True)
class AccuracyEffort:
    """How much is measured.

    Attributes:
        tasks: Tasks.
        archs: Students of each.
        texts: Most texts of a test file, evenly spaced; None: all.
    """

    tasks: tuple[str, ...] = results.TASKS
    archs: tuple[str, ...] = ("mini",)
    texts: int | None = None


def measure_accuracy(data: Path, work: Path, effort: AccuracyEffort) -> Iterator[str]:
    """Yield the table of accuracies."""
    yield "\n## Accuracy of each form\n"
    yield ACCURACY
    heads = (
        *("task", "texts", "student", "in", "accuracy", "macro-F1", "less than torch, points"),
        *("to reach", "same label as torch, %"),
    )
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for name in effort.tasks:
        task = load_task(name)
        rows = read_texts(data / name / "test.jsonl.gz")
        rows = rows[:: max(1, len(rows) // effort.texts) if effort.texts else 1]
        texts, names = [row.text for row in rows], task.label_names
        gold = np.array(read_columns(rows, names))

        def describe(who: str, form: str, given: np.ndarray, first: np.ndarray | None) -> str:
            scores = compute_scores(gold, given, names, 0.0)  # noqa: B023 - used at once
            cells = [name, f"{len(gold):,}", who, form]  # noqa: B023
            cells += [f"{100 * scores.accuracy:.2f}", f"{100 * scores.macro_f1:.2f}"]
            if first is not None:
                lost = 100 * float((first == gold).mean() - scores.accuracy)  # noqa: B023
                cells += [f"{lost:+.2f}", f"≤ {WANTED}", f"{100 * (first == given).mean():.2f}"]
            else:
                cells += ["", "", ""]
            return f"| {' | '.join(cells)} |"

        for arch in effort.archs:
            student = find_student(name, arch)
            folder = work / f"{student.name}-onnx"
            config = ExportConfig(student, ("onnx", "transformers"), int8=True, out=folder)
            export_student(config, SilentReporter())
            first: np.ndarray | None = None
            for form, file in FORMS.items():
                given = classify(folder, file, texts)
                yield describe(arch, form, given, first)
                first = given if first is None else first
        own, _ = train_on(data / name, task, [], lambda: np.empty(0))
        if own is not None:
            yield describe(
                "TF-IDF + logistic regression", "scikit-learn", own(texts).argmax(1), None
            )


def find_student(task: str, arch: str) -> Path:
    """Return the directory of a student of random inputs, which is trained where there is none."""
    there = results.OUT / f"{task}-random-{arch}"
    if (there / "training.json").is_file():
        read_record(there)
        return there
    return results.make_student(task, "random", arch, ("--model", "mini"))


def classify(folder: Path, file: str, texts: Sequence[str]) -> np.ndarray:
    """Return the columns that one form of an export answers, shape (N,)."""
    classifier = open_form(folder, file)
    parts = [texts[begin : begin + PART] for begin in range(0, len(texts), PART)]
    return np.concatenate([classifier.classify(part).probabilities.argmax(1) for part in parts])
