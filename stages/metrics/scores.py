"""What a set of answers is worth: accuracy and F1, confidence, and what a threshold leaves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.metrics.calibration import CalibrationErrors


@dataclass(frozen=True)
class Scores:
    """Accuracy, mean F1 and speed, tokenizer included, of one set of answers.

    ``classes`` holds precision, recall, F1 and rows by class name; a class without a right or
    given answer has F1 0.
    """

    accuracy: float
    macro_f1: float
    classes: dict[str, dict[str, float]]
    texts_per_second: float


@dataclass(frozen=True)
class Confidence:
    """How far a student's probabilities mean what they say, and the teacher's against the labels.

    ``temperature`` is what the student's last layer was divided by, None where nothing is known.
    """

    temperature: float | None = None
    against_labels: CalibrationErrors | None = None
    against_teacher: CalibrationErrors | None = None
    teacher_ece: float | None = None


@dataclass(frozen=True)
class Selection:
    """What is left of the answers above a threshold."""

    threshold: float  # least probability of the most probable class that makes a tag
    coverage: float  # share of texts that get a tag
    accuracy: float | None  # among them; None where there are none


def compute_scores(
    gold: np.ndarray, given: np.ndarray, names: Sequence[str], texts_per_second: float
) -> Scores:
    """Compute the scores of answered columns against the right ones, both of shape (N,), int."""
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
    """Measure what is left of probabilities, shape (N, K), above a threshold in [0, 1].

    ``gold`` are the right columns, shape (N,), int.
    """
    tagged = probabilities.max(axis=1).astype(np.float64) >= threshold
    right = probabilities.argmax(axis=1) == gold
    accuracy = float(right[tagged].mean()) if tagged.any() else None
    return Selection(threshold, float(tagged.mean()), accuracy)
