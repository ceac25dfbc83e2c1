from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.errors import TrainingError
from stages.metrics.calibration import (
    COLDEST,
    HOTTEST,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    undo_temperature,
)

LOGITS = arrays(np.float64, (6, 3), elements=st.floats(-6, 6))


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def divergence(g: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    return float((g * np.log(g / softmax(logits / temperature))).sum(axis=1).mean())


class TestFit:
    @given(logits=LOGITS, sharper=st.floats(0.1, 10))
    def test_a_known_temperature_is_found_again(self, logits: np.ndarray, sharper: float) -> None:
        assume(np.ptp(logits, axis=1).max() > 0.5)
        g = softmax(logits)
        assert fit_temperature(np.log(g) * sharper, g) == pytest.approx(sharper, rel=1e-6)

    @given(logits=LOGITS, others=LOGITS, temperature=st.floats(COLDEST, HOTTEST))
    def test_no_other_temperature_is_better_on_the_rows_of_the_fit(
        self, logits: np.ndarray, others: np.ndarray, temperature: float
    ) -> None:
        g = softmax(others)
        best = divergence(g, logits, fit_temperature(logits, g))
        assert best <= divergence(g, logits, 1.0) + 1e-12
        assert best <= divergence(g, logits, temperature) + 1e-12

    def test_where_none_is_best_it_says_so(self) -> None:
        sure = np.array([[1.0, 0.0], [0.0, 1.0]])
        logits = np.array([[1.0, -1.0], [-1.0, 1.0]], dtype=np.float32)
        for factor, wanted in ((1, COLDEST), (-1, HOTTEST)):
            assert fit_temperature(factor * logits, sure) == pytest.approx(wanted)
            assert calibrate(factor * logits, sure).at_bound
        assert fit_temperature(np.full((4, 2), 3e38, np.float32), np.full((4, 2), 0.5)) == 1.0

    @pytest.mark.parametrize(
        ("logits", "named"),
        [([[0.0, np.nan]] * 2, "NaN or infinite"), ([[0.0, 1.0]], "got one row")],
    )
    def test_what_cannot_be_fitted_is_refused(self, logits: list[list[float]], named: str) -> None:
        with pytest.raises(TrainingError, match=named):
            calibrate(np.array(logits), np.full((len(logits), 2), 0.5))

    def test_it_is_measured_on_rows_that_it_was_not_fitted_on(self) -> None:
        generator = np.random.default_rng(0)
        g = softmax(generator.normal(size=(401, 3)))
        logits = 4 * np.log(g)
        logits[1::2] /= 2
        found = calibrate(logits, g)
        assert found.temperature == pytest.approx(4)
        assert (found.rows, found.measured_rows) == (201, 200)
        other = g[1::2]
        assert found.ece_before == expected_calibration_error(softmax(logits[1::2]), other)
        assert found.ece_after == pytest.approx(
            expected_calibration_error(softmax(logits[1::2] / 4), other), abs=1e-9
        )
        assert not found.at_bound


class TestError:
    @given(
        logits=LOGITS,
        others=LOGITS,
        gold=arrays(np.int64, 6, elements=st.integers(0, 2)),
        temperature=st.floats(0.1, 10),
    )
    def test_it_is_a_share_and_0_where_all_is_as_sure_as_it_may_be(
        self, logits: np.ndarray, others: np.ndarray, gold: np.ndarray, temperature: float
    ) -> None:
        given = softmax(logits / temperature)
        for truth in (gold, softmax(others)):
            assert 0 <= expected_calibration_error(given, truth) <= 1
        assert expected_calibration_error(given, given) == 0

    def test_it_is_what_a_hand_computes(self) -> None:
        constant = np.array([[0.8, 0.2]] * 4)
        assert expected_calibration_error(constant, np.array([0, 0, 0, 1])) == pytest.approx(0.05)
        assert expected_calibration_error(constant, np.array([1] * 4)) == pytest.approx(0.8)
        taught = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [1.0, 0.0]])
        assert expected_calibration_error(constant, taught) == pytest.approx(0.1)
        # Two bins, in one of them too sure and in the other not sure enough: nothing cancels.
        two = np.array([[0.55, 0.45], [0.05, 0.95], [0.02, 0.98], [1.0, 0.0]])
        given = np.array([0, 1, 0, 0])
        wanted = (0.45 + abs(0.95 + 0.98 + 1.0 - 2)) / 4
        assert expected_calibration_error(two, given) == pytest.approx(wanted)

    def test_rows_must_be_as_many(self) -> None:
        for rows in (0, 3):
            with pytest.raises(TrainingError, match=f"{rows} answers and 0 true"):
                expected_calibration_error(np.full((rows, 2), 0.5), np.zeros(0, np.int64))


@given(logits=LOGITS, temperature=st.floats(0.1, 10))
def test_a_temperature_can_be_undone(logits: np.ndarray, temperature: float) -> None:
    given_out = softmax(logits / temperature)
    np.testing.assert_allclose(undo_temperature(given_out, temperature), softmax(logits), atol=1e-9)
    sure = np.eye(2, dtype=np.float32)
    assert undo_temperature(sure, 3.0).tolist() == sure.tolist(), "a probability of 0 stays 0"
