"""The shape of a cache: how many rows, in which columns, in chunks and shards of which size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cache.errors import ManifestError
from cache.format.documents import DocumentError, check_keys, integer, mapping, text

DTYPES = ("uint8", "int8", "int16", "int32", "int64", "uint32", "uint64", "float32", "float64")
MOST_ROWS = 2**40
MOST_SHARDS = 10**6
MOST_CHUNKS = 2**20
MOST_COLUMNS = 64
LARGEST_SHARD = 2**32
"""Bytes of one column of one shard: what a reader may have to hold, and what it refuses beyond."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Column:
    """One array of the cache.

    Attributes:
        dtype: A name from :data:`DTYPES`.
        shape: Shape of one row, () for a number.
        fill: What stands in a row that was never written; integer columns only, since floating
            columns are filled with NaN.
        compressed: Whether chunks are compressed with zstd.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    fill: int = 0
    compressed: bool = False

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


@dataclass(frozen=True)
class Layout:
    """Fixed when the cache is created; nothing is ever appended or resized.

    Attributes:
        rows: Rows of the cache.
        chunk_rows: Rows of a chunk; all rows of a chunk are read together.
        shard_rows: Rows of a shard, a multiple of ``chunk_rows``; a shard is written at once.
            The last shard, and its last chunk, may be short.
        columns: Columns by name.
    """

    rows: int
    chunk_rows: int
    shard_rows: int
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            _check(self)
        except DocumentError as error:
            raise ManifestError(str(error)) from error
        object.__setattr__(self, "columns", dict(self.columns))

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.shard_rows)

    @property
    def chunks(self) -> int:
        """Number of chunks in the whole cache."""
        return -(-self.rows // self.chunk_rows)

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

    def rows_of_chunk(self, chunk: int) -> range:
        """Return the rows of a chunk, as indices into the whole cache."""
        return range(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.rows))

    def to_document(self) -> dict[str, Any]:
        """Return the layout as a plain mapping for JSON."""
        return {
            "rows": self.rows,
            "chunk_rows": self.chunk_rows,
            "shard_rows": self.shard_rows,
            "columns": {
                name: {
                    "dtype": column.dtype,
                    "shape": list(column.shape),
                    "fill": column.fill,
                    "compressed": column.compressed,
                }
                for name, column in self.columns.items()
            },
        }

    @staticmethod
    def from_document(document: object) -> Layout:
        """Build a layout from a parsed mapping of unknown origin.

        Raises:
            DocumentError: The mapping is not as :meth:`to_document` makes it.
            ManifestError: It is, but no cache can have such a layout.
        """
        data = mapping(document, "layout")
        check_keys(data, ("rows", "chunk_rows", "shard_rows", "columns"), "layout")
        columns = {}
        for name, item in mapping(data["columns"], "layout: columns").items():
            where = f"layout: column {name[:64]!r}"
            column = mapping(item, where)
            check_keys(column, ("dtype", "shape", "fill", "compressed"), where)
            if not isinstance(column["shape"], list):
                raise DocumentError(f"{where}: shape must be a list")
            columns[name] = Column(
                dtype=column["dtype"],
                shape=tuple(column["shape"]),
                fill=column["fill"],
                compressed=column["compressed"],
            )
        return Layout(data["rows"], data["chunk_rows"], data["shard_rows"], columns)


def answer_columns(classes: int, tokens: int | None = None) -> dict[str, Column]:
    """Return the columns of rows that hold a seed and an answer over some classes.

    Args:
        classes: Number of classes K.
        tokens: Where the input is text, its most token ids; None where the seed says it all.

    Returns:
        ``seed`` uint64, ``length`` int32, ``logits`` and ``probabilities`` float32 (K,), and
        with ``tokens`` a compressed int32 column of that name and length, filled with -1.
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


def _check(layout: Layout) -> None:
    integer(layout.rows, "layout: rows", 1, MOST_ROWS)
    integer(layout.chunk_rows, "layout: chunk_rows", 1, MOST_ROWS)
    integer(layout.shard_rows, "layout: shard_rows", 1, MOST_ROWS)
    if layout.shard_rows % layout.chunk_rows:
        raise DocumentError(
            f"layout: shard_rows {layout.shard_rows} is not a multiple of chunk_rows "
            f"{layout.chunk_rows}"
        )
    integer(layout.chunks_per_shard, "layout: chunks in a shard", 1, MOST_CHUNKS)
    integer(layout.shards, "layout: shards", 1, MOST_SHARDS)
    integer(len(layout.columns), "layout: number of columns", 1, MOST_COLUMNS)
    for name, column in layout.columns.items():
        if type(name) is not str or not _NAME.fullmatch(name):
            raise DocumentError(
                f"layout: column name {name!r:.80} must be a lower-case letter, then lower-case "
                "letters, digits and '_'"
            )
        _check_column(column, f"layout: column {name!r}", layout.shard_rows)


def _check_column(column: Column, where: str, shard_rows: int) -> None:
    if text(column.dtype, f"{where}: dtype", 16) not in DTYPES:
        raise DocumentError(f"{where}: dtype {column.dtype!r} is none of {', '.join(DTYPES)}")
    if type(column.compressed) is not bool:
        raise DocumentError(f"{where}: compressed must be true or false")
    if type(column.shape) is not tuple or len(column.shape) > 4:
        raise DocumentError(f"{where}: shape must be a tuple of at most four sizes")
    for size in column.shape:
        integer(size, f"{where}: shape", 1, LARGEST_SHARD)
    if column.is_float:
        integer(column.fill, f"{where}: fill (of a floating column)", 0, 0)
    else:
        bounds = np.iinfo(column.dtype)
        integer(column.fill, f"{where}: fill", int(bounds.min), int(bounds.max))
    integer(column.row_bytes * shard_rows, f"{where}: bytes in a shard", 1, LARGEST_SHARD)
