"""Parquet and Arrow files, through pyarrow."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from stages.errors import TextDataError
from stages.texts.rows import Row, check_columns, make_jsonable, make_row
from stages.texts.source import Stream, import_arrow

FORMATS = {b"PAR1": "Parquet", b"ARROW1\0\0": "Arrow", b"\xff\xff\xff\xff": "Arrow stream"}
"""What a file begins with."""


def read_arrow(
    stream: Stream, file: IO[bytes] | None, kind: str, text_column: str, batch: int
) -> Iterator[Row]:
    """Yield the rows of such a file, a batch at a time.

    Args:
        stream: Its bytes.
        file: The file that they come from, if it holds just them and can be read anywhere.
        kind: One of :data:`FORMATS`.
        text_column: Column of the text.
        batch: Rows that are read at once.

    Raises:
        TextDataError: pyarrow is missing, or cannot read it; or the column is missing.
    """
    import_arrow(kind)
    import pyarrow

    with tempfile.TemporaryFile() as copy:
        source: IO[bytes] | Stream = stream
        if kind != "Arrow stream":  # the others are read from their end
            source = file or copy
            if file is None:
                shutil.copyfileobj(stream, copy)
            source.seek(0)
        try:
            number = 0
            for columns, rows in _read_batches(kind, source, batch):
                check_columns(columns, text_column)
                for row in rows:
                    number += 1
                    found = make_row(row, number, text_column, "row")
                    yield replace(found, fields=make_jsonable(found.fields))
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise TextDataError(f"it cannot be read as {kind}: {reason}") from error


def _read_batches(
    kind: str, source: IO[bytes] | Stream, size: int
) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    import pyarrow
    import pyarrow.parquet

    if kind == "Parquet":
        batches = pyarrow.parquet.ParquetFile(source).iter_batches(size)
    elif kind == "Arrow":
        reader = pyarrow.ipc.open_file(source)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = pyarrow.ipc.open_stream(source)
    for batch in batches:
        for begin in range(0, batch.num_rows, size):
            yield batch.schema.names, batch.slice(begin, size).to_pylist()
