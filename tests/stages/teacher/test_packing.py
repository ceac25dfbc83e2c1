from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.teacher.teacher import Batch, plan_batches

lengths = st.lists(st.integers(0, 40), max_size=80).map(lambda own: np.array(own, dtype=np.int32))


def count_positions(batch: Batch, around: int) -> int:
    return sum(len(rows) * max(1, length + around) for rows, length in batch)


@given(lengths, st.integers(0, 20), st.integers(1, 300), st.booleans())
def test_batches_hold_every_row_once_and_are_full_but_not_above_the_budget(
    lengths: np.ndarray, around: int, budget: int, mixed: bool
) -> None:
    batches = list(plan_batches(lengths, around, budget, mixed))
    rows = [int(row) for batch in batches for group, _ in batch for row in group]
    assert sorted(rows) == list(range(len(lengths)))
    for batch in batches:
        for group, length in batch:
            assert len(group)
            assert (lengths[group] == length).all()
        own = [length for _, length in batch]
        assert own == sorted(set(own))
        assert mixed or len(own) == 1
        single = sum(len(group) for group, _ in batch) == 1
        assert count_positions(batch, around) <= budget or single
    for batch, following in pairwise(batches):
        length = following[0][1]
        if mixed or length == batch[0][1]:
            assert count_positions(batch, around) + max(1, length + around) > budget
