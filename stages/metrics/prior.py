"""The leaning of a teacher's answers to inputs that ask nothing, and answers without it.

A language model gives some classes more than others whatever it reads.  With p_ik its probability
of class k in row i, the prior is the vector b, with mean 0, for which

    mean_i softmax(log p_i - b)_k = π_k

are the wanted shares (contextual calibration, Zhao et al. 2021, where b is the mean log-probability
instead).  It is found on cached rows and taken off when they are read; no cache is changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.errors import SettingError, TrainingError

RARE = 1e-3
"""Mean probability below which a class is hardly ever given: b would weigh noise."""

CONTENT = 0.2
"""Up to this content of the rows a prior is taken off unasked.

A prior is found on inputs that ask nothing.  A teacher that was trained on a task knows even random
tokens apart, and so it does its own texts: see benchmarks/real.md.
"""

TOLERANCE = 1e-4
ROUNDS = 10_000
SMALLEST = 1e-30
"""Taken for a probability of 0, which float32 rounds smaller ones to."""


@dataclass(frozen=True)
class Prior:
    """What is taken off a teacher's answers."""

    biases: tuple[float, ...]  # b, subtracted from log-probabilities
    given: tuple[float, ...]  # mean probability of each class as the teacher answers
    shares: tuple[float, ...]  # π, the mean probabilities without it
    rows: int  # that it was found on
    # mutual information of row and class, as a share of the entropy of the mean answer: 0 where
    # all rows get the same answer, 1 where each gets one class for sure and all classes are given
    content: float = 0.0

    @property
    def is_leaning(self) -> bool:
        """Whether the rows hardly tell anything apart, so that only a leaning shows in them."""
        return self.content <= CONTENT

    def remove(self, probabilities: ArrayLike) -> NDArray[np.float32]:
        """Return probabilities, shape (N, K), without the prior."""
        return _shift(probabilities, -np.array(self.biases))

    def put_back(self, probabilities: ArrayLike) -> NDArray[np.float32]:
        """Return probabilities, shape (N, K), as they would be with the prior."""
        return _shift(probabilities, np.array(self.biases))


def fit_prior(probabilities: NDArray[np.float32], shares: Sequence[float] | None = None) -> Prior:
    """Find the prior of answers, shape (N, K); ``shares`` are wanted, None: all classes alike.

    Raises:
        SettingError: The shares are not K positive numbers that sum to 1.
        TrainingError: There are no answers, or no biases give these shares.
    """
    rows, classes = probabilities.shape
    if rows == 0:
        raise TrainingError("prior: there are no rows to find it on")
    wanted = np.full(classes, 1 / classes) if shares is None else np.array(shares, dtype=float)
    if wanted.shape != (classes,) or not (wanted > 0).all() or abs(wanted.sum() - 1) > 1e-6:
        raise SettingError(
            f"prior: got the shares {', '.join(f'{x:g}' for x in wanted)}, must be {classes} "
            "positive numbers that sum to 1"
        )
    logits, biases = _to_logits(probabilities), np.zeros(classes)
    for _ in range(ROUNDS):
        found = softmax(logits - biases).mean(axis=0)
        if np.abs(found - wanted).max() < TOLERANCE:
            break
        # Each round lowers the convex function whose gradient is the difference of the shares.
        biases += np.log(np.maximum(found, SMALLEST) / wanted)
    # Sure answers have no finer shares than a row.
    if np.abs(found - wanted).max() >= max(TOLERANCE, 1 / rows):
        raise TrainingError(
            f"prior: no biases give the shares {', '.join(f'{x:.3g}' for x in wanted)}; the "
            f"nearest gave {', '.join(f'{x:.3g}' for x in found)}"
        )
    answers = softmax(logits)
    given = answers.mean(axis=0)
    entropy = _measure_entropy(given)
    content = 1 - float(_measure_entropy(answers).mean() / entropy) if entropy > 0 else 0.0
    biases -= biases.mean()
    return Prior(
        tuple(biases.tolist()), tuple(given.tolist()), tuple(wanted.tolist()), rows, content
    )


def average_answers(answers: Sequence[ArrayLike]) -> NDArray[np.float32]:
    """Average the log-probabilities of several teachers; probabilities (N, K), as each one's.

    The answers of one alone are returned as they are.
    """
    if len(answers) == 1:
        return np.asarray(answers[0], dtype=np.float32)
    return softmax(np.mean([_to_logits(each) for each in answers], axis=0)).astype(np.float32)


def read_prior(record: Mapping[str, Any]) -> Prior | None:
    """Return the prior that a student's record tells of; None where none was removed."""
    if (known := record.get("prior")) is None:
        return None
    return Prior(**known | {name: tuple(known[name]) for name in ("biases", "given", "shares")})


def _measure_entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy, in nats, over the last axis."""
    found: NDArray[np.float64] = -(probabilities * _to_logits(probabilities)).sum(axis=-1)
    return found


def _to_logits(probabilities: ArrayLike) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST))


def _shift(probabilities: ArrayLike, biases: NDArray[np.float64]) -> NDArray[np.float32]:
    return softmax(_to_logits(probabilities) + biases).astype(np.float32)


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities of scores, both of shape (..., K)."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return found
