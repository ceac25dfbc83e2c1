from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.metrics.ranks import correlate_ranks, rank

VALUES = st.lists(st.integers(-20, 20), min_size=3, max_size=30)


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert rank([10, 30, 20, 20, 5]).tolist() == [2, 5, 3.5, 3.5, 1]


def test_known_correlations() -> None:
    assert correlate_ranks([1, 2, 3, 4], [10, 200, 3000, 9e9]) == pytest.approx(1)
    assert correlate_ranks([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2, 3, 4, 5 against 2, 1, 4, 3, 5: 1 - 6·4 / (5·24).
    assert correlate_ranks([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)
    assert math.isnan(correlate_ranks([1, 1, 1], [1, 2, 3]))
    assert math.isnan(correlate_ranks([1], [2]))


@given(VALUES, st.randoms(use_true_random=False))
def test_only_the_order_counts(values: list[int], random: object) -> None:
    other = list(values)
    random.shuffle(other)  # type: ignore[attr-defined]
    found = correlate_ranks(values, other)
    if math.isnan(found):
        assert len(set(values)) == 1
        return
    assert -1 <= found <= 1
    stretched = (np.array(values) ** 3).tolist()
    assert correlate_ranks(stretched, other) == pytest.approx(found)
    assert correlate_ranks(other, values) == pytest.approx(found)
    assert correlate_ranks([-v for v in values], other) == pytest.approx(-found)
