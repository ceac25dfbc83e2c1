from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.teacher.batching import Batch, plan_batches

lengths = st.lists(st.integers(0, 40), max_size=80).map(lambda own: np.array(own, dtype=np.int32))
around = st.integers(0, 20)
budget = st.integers(1, 300)


def rows_of(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows]


def positions_of(batch: Batch, around: int) -> int:
    return sum(len(rows) * max(1, length + around) for rows, length in batch.groups)


@given(lengths, around, budget, st.booleans())
def test_every_row_is_in_one_batch_and_in_the_group_of_its_length(
    lengths: np.ndarray, around: int, budget: int, mixed: bool
) -> None:
    batches = list(plan_batches(lengths, around, budget, mixed))
    assert sorted(rows_of(batches)) == list(range(len(lengths)))
    for batch in batches:
        for rows, length in batch.groups:
            assert len(rows)
            assert (lengths[rows] == length).all()
        own = [length for _, length in batch.groups]
        assert own == sorted(set(own))
        assert mixed or len(own) == 1


@given(lengths, around, budget, st.booleans())
def test_no_batch_is_above_the_budget_unless_it_is_a_single_row(
    lengths: np.ndarray, around: int, budget: int, mixed: bool
) -> None:
    for batch in plan_batches(lengths, around, budget, mixed):
        assert positions_of(batch, around) <= budget or len(batch.rows) == 1


@given(lengths, around, budget, st.booleans())
def test_a_batch_leaves_less_room_than_the_next_row_needs(
    lengths: np.ndarray, around: int, budget: int, mixed: bool
) -> None:
    batches = list(plan_batches(lengths, around, budget, mixed))
    for batch, following in pairwise(batches):
        length = following.groups[0][1]
        if mixed or length == batch.groups[0][1]:
            assert positions_of(batch, around) + max(1, length + around) > budget


@given(lengths, around, budget, st.booleans())
def test_batches_depend_on_nothing_but_the_arguments(
    lengths: np.ndarray, around: int, budget: int, mixed: bool
) -> None:
    first, again = (
        [
            [(rows.tolist(), length) for rows, length in batch.groups]
            for batch in plan_batches(given_lengths, around, budget, mixed)
        ]
        for given_lengths in (lengths, lengths.astype(np.int64).copy())
    )
    assert first == again


@given(lengths.filter(lambda own: len(own) > 1), around, st.booleans())
def test_halving_splits_the_rows_in_two_and_loses_none(
    lengths: np.ndarray, around: int, mixed: bool
) -> None:
    for batch in plan_batches(lengths, around, 10**6, mixed):
        if len(batch.rows) == 1:
            with pytest.raises(ValueError, match="one row cannot be split"):
                batch.halve()
            continue
        halves = batch.halve()
        assert rows_of(list(halves)) == batch.rows.tolist()
        assert abs(len(halves[0].rows) - len(halves[1].rows)) <= 1
        for half in halves:
            assert all((lengths[rows] == length).all() for rows, length in half.groups)


def test_short_rows_fill_a_batch_as_long_ones_do() -> None:
    for length in (1, 7, 64, 512):
        *full, _ = plan_batches(np.full(5000, length), 0, 4096, True)
        assert full
        assert all(positions_of(batch, 0) > 4096 - length for batch in full)
