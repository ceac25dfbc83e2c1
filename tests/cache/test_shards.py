import math
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from numcodecs.checksum32 import CRC32C
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from cache.format.layout import Column, DType, Layout, answer_columns
from cache.format.shards import decode, encode, largest_object, metadata, object_path

COLUMNS = {
    **answer_columns(2, tokens=33),
    "plain_ids": Column("int32", (5,), fill=-1),
    "grid": Column("float64", (2, 3)),
    "packed": Column("float32", compressed=True),
}
LAYOUTS = [
    Layout(128, 8, 64, COLUMNS),
    Layout(1000, 7, 70, COLUMNS),  # neither shards nor chunks divide the rows
    Layout(5, 8, 16, COLUMNS),  # less than one chunk
    Layout(129, 8, 64, COLUMNS),  # one row in the last shard
]


def some_values(column: Column, rows: int) -> npt.NDArray[Any]:
    chance = np.random.default_rng(rows)
    shape = (rows, *column.shape)
    if column.is_float:
        return chance.normal(size=shape).astype(column.dtype)
    return chance.integers(0, 100, size=shape).astype(column.dtype)


def zarr_objects(layout: Layout) -> dict[str, Buffer]:
    prototype = default_buffer_prototype()
    return {path: prototype.buffer.from_bytes(data) for path, data in metadata(layout, "f").items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", COLUMNS)
def test_the_bytes_are_those_that_zarr_itself_writes(layout: Layout, name: str) -> None:
    column = layout.columns[name]
    store = zarr_objects(layout)
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(MemoryStore(store), path=f"rows/{name}", mode="r+")
    for shard in range(layout.shards):
        rows = layout.rows_of(shard)
        values = some_values(column, len(rows))
        if shard == 0:
            values[:] = column.fill if not column.is_float else values  # fill is data like any
        array[rows.start : rows.stop] = values
        data = encode(layout, column, values)
        assert store[object_path(name, column, shard)].to_bytes() == data
        assert len(data) <= largest_object(layout, column)
        found = decode(layout, column, data, len(rows))
        np.testing.assert_array_equal(found, values)
        assert (found.dtype, found.shape) == (values.dtype, values.shape)
        assert not found.flags.writeable


@pytest.mark.parametrize("dtype", get_args(DType))
@pytest.mark.parametrize("compressed", [False, True])
def test_every_dtype_comes_back_of_any_stride_and_byte_order(dtype: str, compressed: bool) -> None:
    column = Column(dtype, (3,), compressed=compressed)
    layout = Layout(40, 4, 32, {"x": column})
    values = some_values(column, 8)
    data = encode(layout, column, values)
    np.testing.assert_array_equal(decode(layout, column, data, 8), values)
    swapped = values.astype(values.dtype.newbyteorder())
    for other in (np.asfortranarray(values), values[::-1].copy()[::-1], swapped):
        assert encode(layout, column, other) == data


def test_metadata_is_what_the_contract_says() -> None:
    group = zarr.open_group(MemoryStore(zarr_objects(LAYOUTS[1])), path="rows", mode="r")
    for name, column in COLUMNS.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        sizes = [(rows, *column.shape) for rows in (1000, 70, 7)]
        assert [array.shape, array.shards, array.chunks] == sizes
        fill = float(array.fill_value)
        assert math.isnan(fill) if column.is_float else fill == column.fill
        (codec,) = array.metadata.to_dict()["codecs"]  # type: ignore[union-attr]
        steps = [step["name"] for step in codec["configuration"]["codecs"]]
        assert codec["configuration"]["index_location"] == "end"
        assert steps == ["bytes", *(["zstd"] if column.compressed else []), "crc32c"]


def test_zarr_finds_a_flipped_byte_by_itself() -> None:
    """What crc32c inside is for: readers that know nothing of commit records."""
    column = COLUMNS["logits"]
    layout = Layout(64, 8, 64, {"logits": column})
    store = zarr_objects(layout)
    data = bytearray(encode(layout, column, some_values(column, 64)))
    data[100] ^= 1
    store["rows/logits/c/0/0"] = default_buffer_prototype().buffer.from_bytes(bytes(data))
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(MemoryStore(store), path="rows/logits", mode="r")[:]


@pytest.mark.parametrize("name", ["logits", "tokens"])
@pytest.mark.parametrize("entry", [2, 3, 14, 15])
def test_an_index_that_lies_is_refused(name: str, entry: int) -> None:
    """Chunks 1 and 7 of a shard whose last two chunks are not there."""
    column = COLUMNS[name]
    layout = Layout(100, 8, 64, {name: column})
    data = encode(layout, column, some_values(column, 36))
    end = len(data) - 16 * layout.chunks_per_shard - 4
    for value in (0, 3, 2**31, 2**63, 2**64 - 1, 2**64 - 100):
        index = np.frombuffer(data, "<u8", offset=end, count=2 * layout.chunks_per_shard).copy()
        index[entry] = value
        # With a sum that fits.
        changed = data[:end] + bytes(CRC32C(location="end").encode(index.tobytes()))
        if changed == data or (name, entry, value) in [("tokens", 2, 0), ("tokens", 2, 3)]:
            continue  # as it was; or chunk 1 found in chunk 0, which a hash must catch
        with pytest.raises(ValueError, match=r"chunk|index"):
            decode(layout, column, changed, 36)


@pytest.mark.parametrize("name", ["seed", "tokens"])
def test_bytes_of_any_length_end_in_the_error(name: str) -> None:
    column = COLUMNS[name]
    layout = Layout(64, 8, 64, {name: column})
    data = encode(layout, column, some_values(column, 64))
    for length in range(len(data)):
        for wrong in (data[:length], bytes(length)):
            with pytest.raises(ValueError, match=r"index|chunk"):
                decode(layout, column, wrong, 64)


def test_a_compression_bomb_finds_no_room() -> None:
    column, bomb = Column("int32", (4,), compressed=True), Column("uint8", (2**20,), 0, True)
    layout, large = Layout(8, 8, 8, {"x": column}), Layout(8, 8, 8, {"x": bomb})
    data = encode(large, bomb, np.zeros((8, 2**20), np.uint8))
    assert len(data) < 2000
    with pytest.raises(ValueError, match=r"too small|zstd"):
        decode(layout, column, data, 8)
