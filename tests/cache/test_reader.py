import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_worker import fill, make_cache, make_columns

from cache.directory import Cache
from cache.errors import Hint, IncompleteError
from cache.format.layout import Column, Layout
from cache.reader import WINDOW_SHARDS, CacheReader, Columns, cut, shuffled, windows

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
    assert sorted(rows_of(list(islice(reader.stream_slices(8, 1), 12)))) == list(range(96))


def test_a_partial_stream_continues_on_the_shards_it_began_with(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    fill(cache, 4)
    before = CacheReader(cache, partial=True)
    order = firsts(list(islice(before.stream_slices(8, 1), 20)))
    fill(cache, 3)
    after = CacheReader(cache, shards=before.shards)
    assert firsts(list(islice(after.stream_slices(8, 1, start=5), 15))) == order[5:]
    with pytest.raises(IncompleteError):
        CacheReader(cache, partial=True, shards=[0, 9])


def test_an_epoch_has_every_row_once_and_its_slices_lie_in_one_chunk(whole: Cache) -> None:
    reader = CacheReader(whole)
    for slice_rows in (1, 3, 8, 100):
        count = 37 * -(-8 // slice_rows) + -(-4 // slice_rows)
        stream = reader.stream_slices(slice_rows, seed=7)
        for _ in range(2):
            epoch = list(islice(stream, count))
            assert sorted(rows_of(epoch)) == list(range(300))
            for part in epoch:
                rows = np.array(rows_of([part]))
                assert rows[0] // 8 == rows[-1] // 8
                assert len(set(part["length"].tolist())) == 1
                assert (np.diff(rows) == 1).all()
                assert not any(values.flags.writeable for values in part.values())


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
    stream = reader.stream_slices(8, 7, start=10**9)
    assert read == []
    next(stream)
    assert len(read) <= WINDOW_SHARDS


def test_excluded_chunks_are_held_out_and_can_be_read(whole: Cache) -> None:
    reader = CacheReader(whole)
    out = frozenset([0, 5, 37, *range(16, 24)])  # two whole shards among them
    stream = list(islice(reader.stream_slices(8, 7, exclude_chunks=out), 38 - 11))
    held = reader.read_chunks([37, 5, 16])
    assert firsts(held) == [296, 40, 128]
    assert [len(part["seed"]) for part in held] == [4, 8, 8]
    everything = rows_of(stream) + rows_of(reader.read_chunks(out))
    assert sorted(everything) == list(range(300))
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


@given(
    st.integers(1, 400), st.integers(1, 9), st.integers(1, 5), st.integers(1, 12),
    st.frozensets(st.integers(0, 60)),
)  # fmt: skip
def test_cuts_cover_every_row_that_is_not_excluded_once(
    rows: int, chunk: int, chunks: int, slice_rows: int, without: frozenset[int]
) -> None:
    layout = Layout(rows, chunk, chunk * chunks, {"x": Column("int8")})
    found: list[int] = []
    for shard in range(layout.shards):
        for owner, start, stop in cut(layout, shard, slice_rows, without).tolist():
            assert owner == shard
            assert start < stop <= start + slice_rows
            assert start // chunk == (stop - 1) // chunk
            found.extend(range(start, stop))
    assert sorted(found) == [row for row in range(rows) if row // chunk not in without]


@given(
    st.dictionaries(st.integers(0, 50), st.integers(0, 5), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 100),
)
def test_windows_continue_anywhere(sizes: dict[int, int], width: int, start: int) -> None:
    slices = {shard: np.full((size, 3), shard) for shard, size in sizes.items()}
    for members in slices.values():
        members[:, 1] = np.arange(len(members))

    def places(start: int, count: int) -> list[list[int]]:
        found: list[list[int]] = []
        stream = windows(slices, width, 3, start)
        while len(found) < count:
            window = next(stream).tolist()
            assert len({shard for shard, _, _ in window}) <= width
            found += window
        return found[:count]

    if sum(sizes.values()):
        assert places(start, 20) == places(0, start + 20)[start:]
