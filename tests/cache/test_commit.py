from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_worker import fill, list_caches, make_cache, make_columns, tree

from cache.errors import ClaimError, ColumnsError, NonFiniteError


def test_at_most_40_bytes_a_row_for_two_classes(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, rows=65536, chunk_rows=64, shard_rows=16384, tokens=None)
    fill(cache)
    blocks = sum(
        path.stat().st_blocks * 512 for path in cache.place.path.rglob("*") if path.is_file()
    )
    assert blocks <= 40 * 65536
    assert list_caches(tmp_path)[0]["bytes"] <= 40 * 65536


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"length": None}, "'length' is missing"),
        ({"extra": np.zeros(32)}, "no column 'extra'"),
        ({"length": np.zeros(32, np.int64)}, r"int64 \(32,\), must be int32 \(32,\)"),
        ({"length": np.zeros(31, np.int32)}, r"\(31,\)"),
        ({"logits": np.zeros((32, 3), np.float32)}, r"\(32, 3\)"),
        ({"logits": np.zeros(64, np.float32)}, r"\(64,\)"),
        ({"logits": np.zeros((32, 2), ">f4")}, ">f4"),
        *(({"seconds": seconds}, "seconds") for seconds in (-1.0, np.nan, np.inf)),
    ],
)
def test_columns_of_another_shape_or_dtype_and_odd_seconds_are_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    cache = make_cache(tmp_path)
    before = tree(cache.place.path)
    with cache.claim_next() or pytest.fail("nothing to claim") as claim:
        columns = {"seconds": 1.0, **make_columns(cache, 0), **changes}
        seconds = columns.pop("seconds")
        there = {name: values for name, values in columns.items() if values is not None}
        with pytest.raises(ColumnsError, match=named):
            cache.commit(claim, there, seconds)
    assert (cache.committed(), tree(cache.place.path)) == ([], before)


def test_a_value_that_is_not_finite_commits_and_leaves_nothing(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    fill(cache, 2)
    before = tree(cache.place.path)
    for value in (np.nan, np.inf, -np.inf):
        with cache.claim_next() or pytest.fail("nothing to claim") as claim:
            columns = make_columns(cache, 2)
            columns["logits"][5:, 1] = value
            with pytest.raises(NonFiniteError, match="shard 2: column 'logits' of row 69"):
                cache.commit(claim, columns, 1.0)
        assert (cache.committed(), tree(cache.place.path)) == ([0, 1], before)
        assert cache.live_claims() == []


def test_a_shard_is_committed_once(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    with cache.claim_next() or pytest.fail("nothing to claim") as claim:
        cache.commit(claim, make_columns(cache, 0), 1.0)
        with pytest.raises(ClaimError, match="committed already"):
            cache.commit(claim, make_columns(cache, 0), 1.0)
