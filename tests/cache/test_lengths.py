"""Lengths: one for each chunk, by a rule, the same on every machine."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.draw.lengths import LengthRule, _length_threshold
from cache.errors import SamplerError


def test_a_length_depends_on_the_run_and_the_chunk_alone() -> None:
    rule = LengthRule("log-uniform", 1, 256)
    lengths = rule.draw_lengths(3, 0, 50)
    assert lengths.dtype == np.int64
    assert np.array_equal(rule.draw_lengths(3, 20, 7), lengths[20:27])
    assert not np.array_equal(rule.draw_lengths(4, 0, 50), lengths)
    assert rule.draw_lengths(3, 0, 0).shape == (0,)


def test_the_first_lengths_are_what_they_have_always_been() -> None:
    # A change here changes every cache: then the format's version must change as well.
    rule = LengthRule("log-uniform", 1, 256)
    assert rule.draw_lengths(0, 0, 12).tolist() == [1, 13, 121, 3, 1, 157, 25, 7, 78, 95, 211, 41]
    rule = LengthRule("uniform", 1, 256)
    assert rule.draw_lengths(0, 0, 8).tolist() == [7, 121, 222, 57, 5, 234, 150, 91]


@settings(deadline=None)
@given(
    kind=st.sampled_from(("uniform", "log-uniform")),
    minimum=st.integers(1, 300),
    more=st.integers(0, 2000),
    seed=st.integers(0, 2**64 - 1),
    chunk=st.integers(0, 2**40),
)
def test_lengths_stay_within_their_bounds(
    kind: str, minimum: int, more: int, seed: int, chunk: int
) -> None:
    lengths = LengthRule(kind, minimum, minimum + more).draw_lengths(seed, chunk, 5)
    assert (lengths >= minimum).all()
    assert (lengths <= minimum + more).all()


@settings(deadline=None)
@given(minimum=st.integers(1, 300), more=st.integers(0, 300))
def test_thresholds_rise_to_the_whole(minimum: int, more: int) -> None:
    maximum = minimum + more
    thresholds = [
        _length_threshold(minimum, maximum, length) for length in range(minimum, maximum + 1)
    ]
    assert thresholds[-1] == 2**32
    assert all(low < high for low, high in zip([0, *thresholds], thresholds, strict=False))
    for length, threshold in zip(range(minimum, maximum + 1), thresholds, strict=True):
        share = math.log((length + 1) / minimum) / math.log((maximum + 1) / minimum)
        assert threshold == pytest.approx(share * 2**32, rel=1e-12, abs=1)


def test_a_threshold_that_is_known_exactly() -> None:
    # Of [1, 15], the lengths up to 1, 3 and 7 are a quarter, a half and three quarters.
    for length, share in ((1, Fraction(1, 4)), (3, Fraction(1, 2)), (7, Fraction(3, 4))):
        assert _length_threshold(1, 15, length) == share * 2**32


def test_every_scale_is_equally_often() -> None:
    lengths = LengthRule("log-uniform", 1, 63).draw_lengths(0, 0, 6000)
    scales = np.bincount(np.log2(lengths).astype(int), minlength=6)
    assert len(scales) == 6
    assert (abs(scales - 1000) < 150).all()  # 5 standard deviations
    assert set(np.unique(lengths)) == set(range(1, 64))


def test_every_length_is_equally_often() -> None:
    lengths = LengthRule("uniform", 3, 10).draw_lengths(0, 0, 8000)
    counts = np.bincount(lengths)
    assert not counts[:3].any() and len(counts) == 11
    assert (abs(counts[3:] - 1000) < 150).all()  # 5 standard deviations


def test_a_fixed_length_is_that_of_every_chunk() -> None:
    for kind in ("uniform", "log-uniform"):
        assert LengthRule(kind, 64, 64).draw_lengths(9, 100, 3).tolist() == [64, 64, 64]


def test_a_very_long_range_needs_no_table() -> None:
    for kind in ("uniform", "log-uniform"):
        lengths = LengthRule(kind, 1, 1_000_000).draw_lengths(0, 0, 20)
        assert 1000 < lengths.max() <= 1_000_000


@pytest.mark.parametrize(
    ("kind", "minimum", "maximum", "message"),
    [
        ("normal", 1, 2, "rule for lengths: got 'normal', must be one of uniform, log"),
        ("log-uniform", 0, 8, r"minimum length: got 0, must be in \[1, 8\]"),
        ("log-uniform", 9, 8, r"minimum length: got 9, must be in \[1, 8\]"),
        ("log-uniform", 1, 0, r"maximum length: got 0, must be in \[1, 1000000\]"),
        ("log-uniform", 1, 1_000_001, "maximum length: got 1000001"),
    ],
)
def test_a_wrong_rule_is_named(kind: str, minimum: int, maximum: int, message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        LengthRule(kind, minimum, maximum)


def test_a_wrong_run_seed_is_named() -> None:
    for kind in ("uniform", "log-uniform"):
        with pytest.raises(SamplerError, match="run seed: got -1"):
            LengthRule(kind, 8, 8).draw_lengths(-1, 0, 1)
