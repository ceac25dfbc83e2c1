"""What 8 bits cost on labelled texts, for ``benchmarks.student``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.results import TASKS
from benchmarks.trial import write_onnx
from stages.classify import Classifier, load_onnx_classifier
from stages.classify.torch_classifier import load_torch_classifier
from stages.texts import read_texts

MOST_LOST = 0.5
PART = 4096
"""Texts that are encoded at once."""

INTRODUCTION = """\
The students of `make results DATA=DIR`, trained on random inputs alone, on all of each task's
DIR/<task>/test.jsonl.gz: accuracy, and how many points the file of 8 bits differs by.
"""


def measure_accuracy(
    folder: Path, data: Path, students: Path, tasks: Sequence[str] = TASKS
) -> Iterator[str]:
    """Yield the lines of the section.

    Args:
        folder: Where ONNX files are written.
        data: Folder of ``<task>/test.jsonl.gz``.
        students: Folder of ``<task>-random-mini``.
        tasks: Names of the tasks.
    """
    yield INTRODUCTION
    yield (
        "| task | texts | original | ONNX | ONNX int8 | int8 − original, points | to reach | "
        "int8 agrees with the original |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    missing = []
    for task in tasks:
        student = students / f"{task}-random-mini"
        if not (student / "training.json").is_file():
            missing.append(student)
            continue
        rows = read_texts(data / task / "test.jsonl.gz")
        texts, gold = [row.text for row in rows], np.array([row.label for row in rows])
        forms: list[Classifier] = [load_torch_classifier(student, "cpu")]
        forms += [load_onnx_classifier(file, "cpu") for file in write_onnx(student, folder / task)]
        answers = [answer(form, texts) for form in forms]
        scores = [100 * float((each == gold).mean()) for each in answers]
        same = float((answers[0] == answers[-1]).mean())
        yield (
            f"| {task} | {len(texts):,} | "
            + " | ".join(f"{score:.2f} %" for score in scores)
            + f" | {scores[-1] - scores[0]:+.2f} | ≥ -{MOST_LOST} | {same:.2%} |"
        )
    for student in missing:
        yield f"\n{student} is not there; `make results DATA=DIR` makes it."


def answer(classifier: Classifier, texts: Sequence[str]) -> np.ndarray:
    """Return the label of each text, shape (N,)."""
    labels = np.array(classifier.labels)
    found = [
        labels[classifier.classify(texts[begin : begin + PART]).probabilities.argmax(axis=1)]
        for begin in range(0, len(texts), PART)
    ]
    return np.concatenate(found)
