"""What a set of answers is worth: accuracy and F1, confidence, and what a threshold leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.metrics.calibration import CalibrationErrors


@dataclass(frozen=True)
class Scores:
    """Accuracy and F1 of one set of answers.

    Attributes:
        accuracy: Share of right answers.
        macro_f1: Mean of the classes' F1.
        classes: Precision, recall, F1 and rows by class name; a class without a right or given
            answer has F1 0.
        texts_per_second: Speed, tokenizer included.
    """

    accuracy: float
    macro_f1: float
    classes: dict[str, dict[str, float]]
    texts_per_second: float


@dataclass(frozen=True)
class Confidence:
    """How far probabilities mean what they say.

    Attributes:
        temperature: What the student's last layer was divided by; None: nothing known.
        against_labels: The student against the texts' labels.
        against_teacher: The student against the teacher's probabilities.
        teacher_ece: The teacher against the texts' labels.
    """

    temperature: float | None = None
    against_labels: CalibrationErrors | None = None
    against_teacher: CalibrationErrors | None = None
    teacher_ece: float | None = None


@dataclass(frozen=True)
class Selection:
    """What is left of the answers above a threshold.

    Attributes:
        threshold: Least probability of the most probable class that makes a tag.
        coverage: Share of texts that get a tag.
        accuracy: Share of right ones among them; None where there are none.
    """

    threshold: float
    coverage: float
    accuracy: float | None


def compute_scores(
    gold: np.ndarray, given: np.ndarray, names: Sequence[str], texts_per_second: float
) -> Scores:
    """Compute accuracy, macro-F1 and each class's figures.

    Args:
        gold: Right columns, shape (N,), int.
        given: Answered columns, shape (N,), int.
        names: The classes' names.
        texts_per_second: Passed through.
    """
    classes = {}
    for column, name in enumerate(names):
        right = int(((gold == column) & (given == column)).sum())
        called, there = int((given == column).sum()), int((gold == column).sum())
        classes[name] = {
            "precision": right / called if called else 0.0,
            "recall": right / there if there else 0.0,
            "f1": 2 * right / (called + there) if called + there else 0.0,
            "rows": there,
        }
    return Scores(
        accuracy=float((gold == given).mean()),
        macro_f1=float(np.mean([figures["f1"] for figures in classes.values()])),
        classes=classes,
        texts_per_second=texts_per_second,
    )


def select(probabilities: np.ndarray, gold: np.ndarray, threshold: float) -> Selection:
    """Measure what is left where answers below a threshold are no tags.

    Args:
        probabilities: Shape (N, K), N at least 1.
        gold: Right columns, shape (N,), int.
        threshold: In [0, 1].
    """
    tagged = probabilities.max(axis=1).astype(np.float64) >= threshold
    right = probabilities.argmax(axis=1) == gold
    accuracy = float(right[tagged].mean()) if tagged.any() else None
    return Selection(threshold, float(tagged.mean()), accuracy)
