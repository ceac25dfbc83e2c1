from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import SettingError, TrainingError
from stages.metrics import RARE, fit_prior, read_prior


def draw_answers(seed: int, rows: int, classes: int, lean: float, sharp: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = sharp * rng.normal(size=(rows, classes)) + lean * rng.normal(size=classes)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 99), st.integers(2, 30), st.floats(0, 6), st.floats(0.1, 4), st.booleans())
def test_without_the_prior_classes_have_the_wanted_shares(
    seed: int, classes: int, lean: float, sharp: float, alike: bool
) -> None:
    answers = draw_answers(seed, 400, classes, lean, sharp)
    shares = np.full(classes, 1 / classes)
    if not alike:
        shares = np.random.default_rng(seed).dirichlet(np.full(classes, 5.0))
    prior = fit_prior(answers, None if alike else shares.tolist())
    assert prior.rows == 400
    assert sum(prior.biases) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(prior.given, answers.mean(axis=0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(prior.shares, shares, atol=1e-9)
    left = prior.remove(answers)
    np.testing.assert_allclose(left.mean(axis=0), shares, atol=2e-4)
    np.testing.assert_allclose(left.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(prior.put_back(left), answers, atol=1e-4)
    # It moves a row's answer by the same for every row, so between rows no order changes.
    for k in range(classes):
        odds = np.log(answers[:, k] / answers[:, (k + 1) % classes])
        after = np.log(left[:, k] / left[:, (k + 1) % classes])
        fine = (answers > 1e-6).all(axis=1) & (left > 1e-6).all(axis=1)
        assert np.ptp((odds - after)[fine]) < 1e-3 if fine.any() else True


def test_a_class_that_is_hardly_given_is_named() -> None:
    answers = np.tile(np.float32([0.6, 0.3999, 0.0001]), (50, 1))
    assert [share < RARE for share in fit_prior(answers).given] == [False, False, True]
    never = np.tile(np.float32([0.5, 0.5, 0.0]), (50, 1))
    prior = fit_prior(never)
    assert prior.given[2] < RARE
    assert np.isfinite(prior.biases).all()
    np.testing.assert_allclose(prior.remove(never), 1 / 3, atol=1e-3)


def test_answers_that_are_sure_have_no_finer_shares_than_a_row() -> None:
    sure = np.float32([[1 - 1e-12, 1e-12]] * 1001 + [[1e-12, 1 - 1e-12]] * 1000)
    prior = fit_prior(sure)
    np.testing.assert_allclose(prior.remove(sure).mean(axis=0), 0.5, atol=1 / 2001)


def test_shares_that_are_none_and_no_rows_are_refused() -> None:
    for shares in ([0.5, 0.6], [1.0, 0.0], [0.2, 0.3, 0.5], [np.nan, 1.0]):
        with pytest.raises(SettingError, match="must be 2 positive numbers that sum to 1"):
            fit_prior(draw_answers(0, 9, 2, 1.0, 1.0), shares)
    with pytest.raises(TrainingError, match="no rows"):
        fit_prior(np.empty((0, 2), dtype=np.float32))


def test_a_record_gives_the_prior_back() -> None:
    prior = fit_prior(draw_answers(1, 99, 3, 1.0, 1.0))
    assert read_prior({"prior": asdict(prior)}) == prior
    assert read_prior({"prior": None}) is None
    assert read_prior({}) is None


def test_the_content_of_rows_is_what_answers_tell_of_them() -> None:
    same, sure = np.full((4, 2), [0.9, 0.1]), np.eye(2)[[0, 1, 1, 0]]
    assert fit_prior(same.astype(np.float32)).content == pytest.approx(0, abs=1e-6)
    assert fit_prior(sure.astype(np.float32)).content == pytest.approx(1, abs=1e-6)
    # H(1/2) - H(0.9), in nats, of H(1/2)
    mixed = np.array([[0.9, 0.1], [0.1, 0.9]], dtype=np.float32)
    assert fit_prior(mixed).content == pytest.approx(0.53100, abs=1e-4)
