from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.metrics import compute_projection
from stages.teacher.estimate import Verdict, judge_answers

ORDER = ("hopeless", "doubtful", "fine")
NAMES = ("a", "b", "c")


def judge(probabilities: np.ndarray) -> Verdict:
    labels = NAMES[: probabilities.shape[1]]
    return judge_answers(compute_projection(probabilities, probabilities), labels)


def make_answers(share: float, sureness: float, rows: int = 1000) -> np.ndarray:
    """Two classes: the first is the answer to a share of the rows."""
    first = np.where(np.arange(rows) < share * rows, 0.5 + sureness / 2, 0.5 - sureness / 2)
    return np.stack([first, 1 - first], axis=1)


@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(1, 60), st.integers(2, 3)), elements=st.floats(-9, 9)
    )
)
@settings(deadline=None)
def test_every_set_of_answers_has_a_verdict(logits: np.ndarray) -> None:
    found = judge(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    assert found.level in ORDER and found.answers.rows == len(logits)
    top = NAMES[int(np.argmax(found.answers.balance))]
    assert repr(top) in found.reason or "hardly ever answers" in found.reason
    assert ("try another prompt, other label words" in found.reason) == (found.level != "fine")


@given(st.floats(0.3, 0.7), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_answers_that_differ_more_are_never_judged_worse(
    share: float, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    levels = [ORDER.index(judge(make_answers(share, sure)).level) for sure in (less, more)]
    assert levels[0] <= levels[1]


@pytest.mark.parametrize(
    ("share", "sureness", "level"),
    [(0.5, 1.0, "fine"), (0.5, 0.15, "doubtful"), (0.5, 0.05, "hopeless"), (0.97, 1.0, "doubtful"),
     (1.0, 0.9, "hopeless"), (0.8, 0.6, "fine"), (0.97, 0.3, "hopeless")],
)  # fmt: skip
def test_levels(share: float, sureness: float, level: str) -> None:
    assert judge(make_answers(share, sureness)).level == level


def test_the_words_name_classes_shares_and_the_spread() -> None:
    assert judge(make_answers(0.25, 1.0)).shares == "a 25.0%, b 75.0%"
    found = judge(make_answers(0.97, 0.02))
    assert "answers 'a' to 97% of these inputs, with a spread of 0.00" in found.reason
    assert "hardly more than that answer can be learned from them" in found.reason
    assert "nothing can be learned from them" in judge(make_answers(0.5, 0.05)).reason


@given(st.integers(0, 2**32 - 1), st.floats(0.06, 0.13), st.sampled_from((200, 512, 5000)))
@settings(deadline=None)
def test_one_answer_that_varies_a_little_is_hopeless_whichever_rows_are_taken(
    seed: int, deviation: float, rows: int
) -> None:
    # The uniform inputs of the mini teacher are such: 0.10 radians from a constant, give or take.
    # From 0.14 on one seed in three thousand draws 200 rows that vary by more than 0.2 radians.
    first = np.clip(
        0.75 + deviation / np.sqrt(2) * np.random.default_rng(seed).normal(size=rows), 0.51, 1
    )
    assert judge(np.stack([first, 1 - first], axis=1)).level == "hopeless"


def test_a_class_that_is_never_the_answer_is_named() -> None:
    g = np.tile([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], (300, 1))
    found = judge(g)
    assert found.level == "doubtful" and "hardly ever answers 'c'" in found.reason
    # Of a few rows nobody knows.
    assert judge(g[:12]).level == "fine"
