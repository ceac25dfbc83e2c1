"""One shard of one array as bytes: zarr v3's sharding with crc32c inside and the index at the end.

Any zarr reader reads it, and the tests hold it to zarr's own bytes.  It is not done by zarr, since
a reader must decode the very bytes whose hash it has checked, nothing in a hostile shard may make
it allocate more than the layout allows, and zarr's chunk-by-chunk pipeline is some hundred times
slower.
"""

from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from cache.format.layout import Column, Layout

Array = npt.NDArray[Any]

GROUP = "rows"
LEVEL = 0
"""zstd's default level, named by zarr as 0 too; part of every array's metadata."""

_CRC = 4
_ENTRY = 16
_ABSENT = np.uint64(2**64 - 1)


def object_path(name: str, column: Column, shard: int) -> str:
    """Return where zarr looks for a shard of a column, from the cache directory on."""
    return f"{GROUP}/{name}/c/{shard}" + "/0" * len(column.shape)


def metadata(layout: Layout, fingerprint: str) -> dict[str, bytes]:
    """Return the ``zarr.json`` files of the group and its arrays by path, as zarr makes them."""
    # Imported where a cache is made: it is slow to import, and nothing else needs it.
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
    from zarr.storage import MemoryStore

    store: dict[str, Any] = {}
    group = zarr.create_group(
        MemoryStore(store), path=GROUP, attributes={"fingerprint": fingerprint}
    )
    for name, column in layout.columns.items():
        compressors = [ZstdCodec(level=LEVEL)] if column.compressed else []
        codec = ShardingCodec(
            chunk_shape=(layout.chunk_rows, *column.shape),
            codecs=[BytesCodec(), *compressors, Crc32cCodec()],
            index_codecs=[BytesCodec(), Crc32cCodec()],
            index_location="end",
        )
        group.create_array(
            name,
            shape=(layout.rows, *column.shape),
            chunks=(layout.shard_rows, *column.shape),
            dtype=column.dtype,
            fill_value=column.fill_value,
            serializer=codec,
            filters=None,
            compressors=None,
        )
    # Without the group that zarr puts around this one, at the cache directory itself.
    return {key: data.to_bytes() for key, data in store.items() if key.startswith(f"{GROUP}/")}


def largest_object(layout: Layout, column: Column) -> int:
    """Return the most bytes that a shard of this column can have."""
    chunk = layout.chunk_rows * column.row_bytes
    if column.compressed:
        chunk += chunk // 256 + 1024  # zstd's worst case is a little below
    return layout.chunks_per_shard * (chunk + _CRC + _ENTRY) + _CRC


def encode(layout: Layout, column: Column, values: Array) -> bytes:
    """Return the whole object of one shard of one column from all its rows (rows, *shape)."""
    chunks = -(-len(values) // layout.chunk_rows)
    dtype = np.dtype(column.dtype).newbyteorder("<")
    # The last chunk of a short shard is filled up, as zarr does, and chunks behind it left out.
    whole = np.full((chunks * layout.chunk_rows, *column.shape), column.fill_value, dtype)
    whole[: len(values)] = values
    raw = whole.view(np.uint8).reshape(chunks, -1)
    zstd = Zstd(level=LEVEL)
    packed = [bytes(zstd.encode(chunk)) if column.compressed else chunk.tobytes() for chunk in raw]
    body = b"".join(part for chunk in packed for part in (chunk, _crc(chunk)))
    lengths = np.array([len(chunk) + _CRC for chunk in packed], np.uint64)
    index = np.full((layout.chunks_per_shard, 2), _ABSENT, "<u8")
    index[:chunks, 0] = np.cumsum(lengths) - lengths
    index[:chunks, 1] = lengths
    tail = index.tobytes()
    return b"".join((body, tail, _crc(tail)))


def decode(layout: Layout, column: Column, data: bytes, rows: int) -> Array:
    """Return the rows of one shard of one column from an object that :func:`encode` made.

    The bytes are expected to have been checked against a hash of the whole object; the sums of
    single chunks are left to readers that have no such hash.  The array is read-only.  ValueError:
    the bytes are no such object, whoever has hashed them.
    """
    chunks = -(-rows // layout.chunk_rows)
    tail = layout.chunks_per_shard * _ENTRY
    end = len(data) - tail - _CRC
    if end < 0 or _crc(data[end:-_CRC]) != data[-_CRC:]:
        raise ValueError("the index at the end is not one")
    index = np.frombuffer(data, "<u8", offset=end, count=tail // 8).reshape(-1, 2)
    chunk_bytes = layout.chunk_rows * column.row_bytes
    if not (index[chunks:] == _ABSENT).all():
        raise ValueError("there are chunks behind the last row")
    if column.compressed:
        raw = _unpack(data, index[:chunks], end, chunk_bytes)
    else:
        stride = chunk_bytes + _CRC
        dense = np.stack([np.arange(chunks) * stride, np.full(chunks, stride)], 1)
        if end != chunks * stride or not (index[:chunks] == dense.astype(np.uint64)).all():
            raise ValueError("chunks are not of the size or in the place that the layout gives")
        framed = np.frombuffer(data, np.uint8, count=end).reshape(chunks, stride)
        raw = np.ascontiguousarray(framed[:, :chunk_bytes])
    dtype = np.dtype(column.dtype)
    flat = raw.reshape(-1)[: rows * column.row_bytes].view(dtype.newbyteorder("<"))
    values = flat.reshape(rows, *column.shape).astype(dtype, copy=False)
    values.flags.writeable = False
    return values


def _unpack(data: bytes, index: Array, end: int, chunk_bytes: int) -> Array:
    offsets, lengths = index[:, 0], index[:, 1]
    # In this order, since a sum of two hostile 64-bit numbers may wrap round.
    if (lengths < _CRC).any() or (lengths > end).any() or (offsets > end - lengths).any():
        raise ValueError("the index points outside the object")
    zstd = Zstd(level=LEVEL)
    # Decoded into memory of the layout's size: a bomb finds no room and is refused.
    raw = np.zeros((len(index), chunk_bytes), np.uint8)
    for row, start, length in zip(raw, offsets.tolist(), lengths.tolist(), strict=True):
        try:
            zstd.decode(data[start : start + length - _CRC], out=row)
        except RuntimeError as error:
            raise ValueError("a chunk is not zstd") from error
    return raw


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CRC, "little")
