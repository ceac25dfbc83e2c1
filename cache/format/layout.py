"""The shape of a cache: how many rows, in which columns, in chunks and shards of which size."""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from cache.errors import ManifestError
from cache.format.documents import STRICT, checked

DType = Literal[
    "uint8", "int8", "int16", "int32", "int64", "uint32", "uint64", "float32", "float64"
]
MOST_ROWS = 2**40
MOST_SHARDS = 10**6
MOST_CHUNKS = 2**20
MOST_COLUMNS = 64
LARGEST_SHARD = 2**32
"""Bytes of one column of one shard: what a reader may have to hold, and what it refuses beyond."""

Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]
Size = Annotated[int, Field(ge=1, le=LARGEST_SHARD)]
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,63}$")]


@checked
@dataclass(frozen=True, config=STRICT)
class Column:
    """One array of the cache; ``shape`` is that of a row, () for a number."""

    dtype: DType
    shape: Annotated[tuple[Size, ...], Field(max_length=4)] = ()
    fill: int = 0  # in integer columns, where a row was never written; floating ones have NaN there
    compressed: bool = False  # by zstd, chunk by chunk

    def __post_init__(self) -> None:
        low, high = 0, 0
        if not self.is_float:
            bounds = np.iinfo(self.dtype)
            low, high = int(bounds.min), int(bounds.max)
        _check_range(f"fill of {self.dtype}", self.fill, low, high)

    @property
    def is_float(self) -> bool:
        """Whether the values are floating-point numbers, which must be finite."""
        return self.dtype.startswith("float")

    @property
    def fill_value(self) -> int | float:
        """NaN, or the integer ``fill``."""
        return math.nan if self.is_float else self.fill

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, uncompressed."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@checked
@dataclass(frozen=True, config=STRICT)
class Layout:
    """Fixed when the cache is created; nothing is ever appended or resized.

    All rows of a chunk are read together.  A shard, a multiple of ``chunk_rows``, is written at
    once; the last one, and its last chunk, may be short.
    """

    rows: Rows
    chunk_rows: Rows
    shard_rows: Rows
    columns: Annotated[dict[Name, Column], Field(min_length=1, max_length=MOST_COLUMNS)]

    def __post_init__(self) -> None:
        if self.shard_rows % self.chunk_rows:
            raise ManifestError(
                f"layout: shard_rows {self.shard_rows} is not a multiple of chunk_rows "
                f"{self.chunk_rows}"
            )
        _check_range("chunks in a shard", self.chunks_per_shard, 1, MOST_CHUNKS)
        _check_range("shards", self.shards, 1, MOST_SHARDS)
        for name, column in self.columns.items():
            size = column.row_bytes * self.shard_rows
            _check_range(f"bytes of {name!r} in a shard", size, 1, LARGEST_SHARD)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.shard_rows)

    @property
    def chunks_per_shard(self) -> int:
        """Number of chunks in a shard that is not short."""
        return self.shard_rows // self.chunk_rows

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard, as indices into the whole cache."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def chunks_of(self, shard: int) -> range:
        """Return the chunks of a shard, numbered through the whole cache."""
        rows = self.rows_of(shard)
        return range(rows.start // self.chunk_rows, -(-rows.stop // self.chunk_rows))


def answer_columns(classes: int, tokens: int | None = None) -> dict[str, Column]:
    """Return the columns of rows that hold a seed and an answer over K classes.

    They are ``seed`` uint64, ``length`` int32, ``logits`` and ``probabilities`` float32 (K,); for
    texts of at most so many ``tokens`` also a compressed int32 column of those, filled with -1.
    """
    columns = {
        "seed": Column("uint64"),
        "length": Column("int32"),
        "logits": Column("float32", (classes,)),
        "probabilities": Column("float32", (classes,)),
    }
    if tokens is not None:
        columns["tokens"] = Column("int32", (tokens,), fill=-1, compressed=True)
    return columns


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ManifestError(f"layout: {what}: got {value}, must be in [{low}, {high}]")
