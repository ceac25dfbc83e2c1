"""Lengths: one for each chunk, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.draw.lengths import draw_lengths
from cache.errors import SamplerError


def test_a_length_depends_on_the_run_and_the_chunk_alone() -> None:
    lengths = draw_lengths(256, 3, 0, 50)
    assert lengths.dtype == np.int64
    assert np.array_equal(draw_lengths(256, 3, 20, 7), lengths[20:27])
    assert not np.array_equal(draw_lengths(256, 4, 0, 50), lengths)
    assert draw_lengths(256, 3, 0, 0).shape == (0,)
    # A change here changes every cache: then the format's version must change as well.
    assert draw_lengths(256, 0, 0, 8).tolist() == [7, 121, 222, 57, 5, 234, 150, 91]


@settings(deadline=None)
@given(
    longest=st.integers(1, 1_000_000), seed=st.integers(0, 2**64 - 1), chunk=st.integers(0, 2**40)
)
def test_lengths_stay_within_their_bounds(longest: int, seed: int, chunk: int) -> None:
    lengths = draw_lengths(longest, seed, chunk, 5)
    assert (lengths >= 1).all() and (lengths <= longest).all()


def test_every_length_is_equally_often() -> None:
    counts = np.bincount(draw_lengths(8, 0, 0, 8000))
    assert len(counts) == 9 and not counts[0]
    assert (abs(counts[1:] - 1000) < 150).all()  # 5 standard deviations


def test_wrong_lengths_and_run_seeds_are_named() -> None:
    for longest in (0, 1_000_001):
        with pytest.raises(SamplerError, match=rf"got {longest}, must be in \[1, 1000000\]"):
            draw_lengths(longest, 0, 0, 1)
    with pytest.raises(SamplerError, match="run seed: got -1"):
        draw_lengths(8, -1, 0, 1)
