import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_worker import fill, make_cache, make_columns

from cache.directory import Cache
from cache.errors import Hint, IncompleteError
from cache.reader import WINDOW_SHARDS, CacheReader, Columns, shuffled

FACTOR = 0x9E3779B97F4A7C15  # of a row's seed, see store_worker
INVERSE = np.uint64(pow(FACTOR, -1, 2**64))


def rows_of(slices: list[Columns]) -> list[int]:
    return [row for part in slices for row in (part["seed"] * INVERSE).tolist()]


def firsts(slices: list[Columns]) -> list[int]:
    return [rows_of([part])[0] for part in slices]


def test_an_incomplete_cache_is_read_only_when_told_to(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    for partial in (False, True):
        with pytest.raises(IncompleteError, match="0 of 10 shards, 0 of 300 rows"):
            CacheReader(cache, partial)
    fill(cache, 3)
    with pytest.raises(IncompleteError, match="3 of 10 shards, 96 of 300 rows") as caught:
        CacheReader(cache)
    assert (caught.value.hint, caught.value.subject) == (Hint.FILL_OR_PARTIAL, str(cache.place))
    reader = CacheReader(cache, partial=True)
    assert (reader.shards, reader.rows, reader.chunks) == ((0, 1, 2), 96, tuple(range(12)))
    slices = list(islice(reader.stream_slices(8, 1), 20))
    assert sorted(rows_of(slices[:12])) == list(range(96))
    # It goes on with the shards that it began with.
    fill(cache, 3)
    after = CacheReader(cache, shards=reader.shards)
    assert firsts(list(islice(after.stream_slices(8, 1, start=5), 15))) == firsts(slices)[5:]
    with pytest.raises(IncompleteError):
        CacheReader(cache, partial=True, shards=[0, 9])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.frozensets(st.integers(0, 37), max_size=37), st.integers(0, 200))
def test_every_row_that_is_not_excluded_comes_once_an_epoch_and_a_stream_continues_anywhere(
    whole: Cache, slice_rows: int, out: frozenset[int], start: int
) -> None:
    reader = CacheReader(whole)
    sizes = [4 if chunk == 37 else 8 for chunk in range(38) if chunk not in out]
    count = sum(-(-size // slice_rows) for size in sizes)
    slices = list(islice(reader.stream_slices(slice_rows, 7, 0, out), max(2 * count, start + 20)))
    for epoch in (slices[:count], slices[count : 2 * count]):
        assert sorted(rows_of(epoch)) == [row for row in range(300) if row // 8 not in out]
    for part in slices:
        rows = np.array(rows_of([part]))
        assert len(rows) <= slice_rows and rows[0] // 8 == rows[-1] // 8
        assert len(set(part["length"].tolist())) == 1 and (np.diff(rows) == 1).all()
        assert not any(values.flags.writeable for values in part.values())
    later = list(islice(reader.stream_slices(slice_rows, 7, start, out), 20))
    assert rows_of(later) == rows_of(slices[start : start + 20])


def test_the_order_is_a_function_of_seed_and_epoch_and_the_same_in_every_release(
    whole: Cache,
) -> None:
    assert shuffled(8, seed=3, epoch=1, part=0).tolist() == [7, 3, 5, 6, 4, 0, 2, 1]
    reader, count = CacheReader(whole), 75
    order = firsts(list(islice(reader.stream_slices(4, 7), 2 * count)))
    assert firsts(list(islice(CacheReader(whole).stream_slices(4, 7), 2 * count))) == order
    assert firsts(list(islice(reader.stream_slices(4, 8), 2 * count))) != order
    assert order[:count] != order[count:] != sorted(order[:count])
    shards = [[first // 32 for first in order[i : i + count]] for i in (0, count)]
    assert list(dict.fromkeys(shards[0])) != list(dict.fromkeys(shards[1]))


def test_continuing_reads_a_window_and_no_more(
    whole: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = CacheReader(whole)
    read: list[int] = []
    real = reader.read_shard
    monkeypatch.setattr(reader, "read_shard", lambda shard: read.append(shard) or real(shard))
    next(reader.stream_slices(8, 7, start=10**9))
    assert 0 < len(read) <= WINDOW_SHARDS


def test_chunks_are_read_in_the_order_asked_for(whole: Cache) -> None:
    held = CacheReader(whole).read_chunks([37, 5, 16])
    assert firsts(held) == [296, 40, 128]
    assert [len(part["seed"]) for part in held] == [4, 8, 8]
    np.testing.assert_array_equal(held[1]["logits"], make_columns(whole, 1)["logits"][8:16])
    assert not held[1]["logits"].flags.writeable


def test_memory_is_that_of_a_window(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, rows=64 * 4096, chunk_rows=64, shard_rows=4096, tokens=None)
    fill(cache)
    reader = CacheReader(cache)
    window = WINDOW_SHARDS * 4096 * 28
    tracemalloc.start()
    for _ in islice(reader.stream_slices(64, 1), 2 * 4096):
        pass
    assert tracemalloc.get_traced_memory()[1] < 2 * window
    tracemalloc.stop()
