"""Lengths: one for each chunk, by a rule, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.draw.lengths import LengthRule
from cache.errors import SamplerError


def test_a_length_depends_on_the_run_and_the_chunk_alone() -> None:
    rule = LengthRule(1, 256)
    lengths = rule.draw_lengths(3, 0, 50)
    assert lengths.dtype == np.int64
    assert np.array_equal(rule.draw_lengths(3, 20, 7), lengths[20:27])
    assert not np.array_equal(rule.draw_lengths(4, 0, 50), lengths)
    assert rule.draw_lengths(3, 0, 0).shape == (0,)


def test_the_first_lengths_are_what_they_have_always_been() -> None:
    # A change here changes every cache: then the format's version must change as well.
    rule = LengthRule(1, 256)
    assert rule.draw_lengths(0, 0, 8).tolist() == [7, 121, 222, 57, 5, 234, 150, 91]


@settings(deadline=None)
@given(
    minimum=st.integers(1, 300),
    more=st.integers(0, 2000),
    seed=st.integers(0, 2**64 - 1),
    chunk=st.integers(0, 2**40),
)
def test_lengths_stay_within_their_bounds(minimum: int, more: int, seed: int, chunk: int) -> None:
    lengths = LengthRule(minimum, minimum + more).draw_lengths(seed, chunk, 5)
    assert (lengths >= minimum).all()
    assert (lengths <= minimum + more).all()


def test_every_length_is_equally_often() -> None:
    lengths = LengthRule(3, 10).draw_lengths(0, 0, 8000)
    counts = np.bincount(lengths)
    assert not counts[:3].any() and len(counts) == 11
    assert (abs(counts[3:] - 1000) < 150).all()  # 5 standard deviations


def test_a_fixed_length_is_that_of_every_chunk() -> None:
    assert LengthRule(64, 64).draw_lengths(9, 100, 3).tolist() == [64, 64, 64]


def test_a_very_long_range_needs_no_table() -> None:
    lengths = LengthRule(1, 1_000_000).draw_lengths(0, 0, 20)
    assert 1000 < lengths.max() <= 1_000_000


@pytest.mark.parametrize(
    ("minimum", "maximum", "message"),
    [
        (0, 8, r"minimum length: got 0, must be in \[1, 8\]"),
        (9, 8, r"minimum length: got 9, must be in \[1, 8\]"),
        (1, 0, r"maximum length: got 0, must be in \[1, 1000000\]"),
        (1, 1_000_001, "maximum length: got 1000001"),
    ],
)
def test_a_wrong_rule_is_named(minimum: int, maximum: int, message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        LengthRule(minimum, maximum)


def test_a_wrong_run_seed_is_named() -> None:
    with pytest.raises(SamplerError, match="run seed: got -1"):
        LengthRule(8, 8).draw_lengths(-1, 0, 1)
