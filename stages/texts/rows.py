"""Rows of every format: lines, JSON arrays, CSV and TSV in their dialects, Parquet and Arrow."""

import base64
import csv
import io
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice, repeat
from pathlib import Path
from textwrap import shorten
from typing import Any

from cache.suggestion import suggest
from stages.errors import Settings, TextDataError
from stages.texts.source import LONGEST, Lines, Stream

DELIMITERS = {"CSV": ",", "TSV": "\t", "CSV with ';'": ";", "CSV with '|'": "|"}
BATCH = 256  # rows that are read or given together

Found = tuple[Any, int, bool]  # a row's dict or its fault, its number, whether it was not UTF-8


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    number: int  # of its unit, from 1; of the line that it begins at
    text: str | None  # None where it cannot be read
    fields: Mapping[str, Any]  # its keys or columns, the text among them
    error: str | None = None  # why it cannot be read, and where it stands
    unit: str = "line"  # or item of a JSON array, or row of a table without lines
    invalid_utf8: bool = False  # what was not UTF-8 is U+FFFD


def make_row(found: Found, text_column: str, unit: str) -> Row:
    """Make a row of what JSON or a table holds, which should be a dict with the text."""
    data, number, invalid = found
    try:
        text = _find_text(data, text_column)
    except TextDataError as error:
        return Row(number, None, {unit: number}, f"{unit} {number}: {error}", unit, invalid)
    return Row(number, text, data, None, unit, invalid)


def check_columns(columns: Sequence[str], text_column: str) -> None:
    """Raise TextDataError where a table lacks the text's column, or names one twice."""
    _make_object([(name, None) for name in columns])
    if text_column not in columns:
        fault = describe_missing("column", text_column, columns)
        raise TextDataError(fault, Settings(("text_column",)))


def describe_missing(kind: str, name: str, there: Sequence[str]) -> str:
    """Return that a key or column is missing, which there are, and the nearest of them."""
    near = suggest(name, there)
    keys = ", ".join(map(repr, there[:20])) or "none"
    return f"no {kind} {name!r}; there are {keys}{near if near.startswith(' (') else ''}"


def decode(raw: bytes) -> tuple[str, bool]:
    """Return bytes as text, and whether some of it was not UTF-8 and is U+FFFD now."""
    text = raw.decode("utf-8", errors="replace")
    return text, text.encode() != raw


def parse_json(text: str) -> Any:
    """Parse JSON, but no name twice; return TextDataError where it is not as it must be."""
    try:
        return DECODER.decode(text)
    except (ValueError, TextDataError, RecursionError) as error:
        return TextDataError(f"not JSON that can be read ({error})".replace("line 1 ", ""))


def make_jsonable(value: Any) -> Any:
    """Return what JSON can hold of a value: NaN and dates become text, bytes base64."""

    def spell(each: Any) -> str:
        return base64.b64encode(each).decode() if isinstance(each, bytes) else str(each)

    return json.loads(json.dumps(value, default=spell), parse_constant=str)


def find_table(header: str, text_column: str) -> str | None:
    """Return what kind of table has such a first line, if one of several columns is the text's."""
    for name, delimiter in DELIMITERS.items():
        columns = [column.strip('"') for column in header.split(delimiter)]
        if len(columns) > 1 and text_column in columns:
            return name
    return None


def read_lines(lines: Lines, is_json: bool) -> Iterator[Found | None]:
    """Yield lines of JSON or of plain text as rows, and None for a blank one."""
    for raw, number in lines:
        text, invalid = decode(raw.rstrip(b"\r"))
        data = parse_json(text) if is_json else {"text": text}
        yield (data, number, invalid) if text.strip() else None


def read_table(lines: Lines, delimiter: str, text_column: str) -> Iterator[Found | None]:
    """Yield the rows of a CSV or TSV file, and None for a blank line.

    A TSV file may be without quoting: a quote stands for itself in the first row that can only be
    read so, and then in all.
    """
    csv.field_size_limit(LONGEST)
    header = next((decode(raw)[0] for raw, _ in lines if raw.strip()), None)
    if header is None:
        raise TextDataError("it is empty; its first line must name the columns")
    # Blanks behind the delimiters of the first line stand behind all.
    dialect: Any = {"delimiter": delimiter, "skipinitialspace": f"{delimiter} " in header}
    columns, _, fault = _parse_row(header, lines, dialect)
    if fault is not None:
        raise TextDataError(f"in the line of column names, {fault}")
    check_columns(columns, text_column)
    width = len(columns)
    doubtful = delimiter == "\t" and width > 1 and '"' not in header
    for raw, number in lines:
        line, invalid = decode(raw)
        if not line.strip() and delimiter not in line:
            yield None
            continue
        cells, taken, fault = _parse_row(line, lines, dialect)
        plain = line.rstrip("\r").split(delimiter)
        # A cell of several lines, one of which could be a row: they are rows.
        inner = taken if len(plain) == width else taken[:-1]
        are_rows = any(each.count(b"\t") == width - 1 for each, _ in inner)
        if is_plain := doubtful and (are_rows or len(cells) != width):
            cells, fault = plain, None
            if len(plain) == width:
                dialect["quoting"] = csv.QUOTE_NONE
        if is_plain or fault is not None:  # the lines behind it may well be rows
            lines.waiting.extendleft(reversed(taken))
            taken = []
        data: Any = dict(zip(columns, cells, strict=False))
        if fault is not None or len(cells) != width:
            data = TextDataError(fault or f"{len(cells)} cells, the header has {width}")
        yield data, number, invalid or any(decode(each)[1] for each, _ in taken)


def read_array(stream: Stream) -> Iterator[Found]:
    """Yield the items of a JSON array, which is read whole."""
    data = io.BufferedReader(stream).read(LONGEST + 1)
    if len(data) > LONGEST:
        raise TextDataError(f"a JSON array of over {LONGEST >> 20} MiB; make JSON lines of it")
    text, invalid = decode(data)
    items = TextDataError("not UTF-8; convert the file first") if invalid else parse_json(text)
    if isinstance(items, TextDataError):
        raise items
    yield from zip(items, count(1), repeat(False))


def read_arrow(stream: Stream, path: Path | None, kind: str, text_column: str) -> Iterator[Found]:
    """Yield the rows of a Parquet or Arrow file, of which ``path`` is the name if it has one."""
    import pyarrow.parquet

    with path.open("rb") if path is not None else tempfile.TemporaryFile() as file:
        if path is None:  # such a file is read from its end
            shutil.copyfileobj(stream, file)
            file.seek(0)
        numbers = count(1)
        try:
            if kind == "Parquet":
                batches = pyarrow.parquet.ParquetFile(file).iter_batches(BATCH)
            elif kind == "Arrow":
                reader = pyarrow.ipc.open_file(file)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            else:
                batches = pyarrow.ipc.open_stream(file)
            for batch in batches:
                check_columns(batch.schema.names, text_column)
                for begin in range(0, batch.num_rows, BATCH):
                    rows = batch.slice(begin, BATCH).to_pylist()
                    yield from zip(rows, numbers, repeat(False))
        except (pyarrow.ArrowException, OSError, ValueError) as error:  # a time in nanoseconds
            raise TextDataError(f"cannot be read as {kind}: {shorten(str(error), 300)}") from error


def _find_text(data: Any, text_column: str) -> str:
    if isinstance(data, TextDataError):
        raise data
    if not isinstance(data, Mapping):
        raise TextDataError(f"got a JSON {type(data).__name__}, must be an object")
    if text_column not in data:
        raise TextDataError(describe_missing("key", text_column, list(data)))
    text = data[text_column]
    if not isinstance(text, str):
        raise TextDataError(f"{text_column!r} is {type(text).__name__}, must be text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        fault = f"half a surrogate pair ({text[error.start]!r}), no character"
        raise TextDataError(f"{text_column!r} holds {fault}") from error
    return text


def _parse_row(line: str, lines: Lines, dialect: Any) -> tuple[list[str], list[Any], str | None]:
    """Return a row's cells, the lines that it takes more, and what is wrong with it."""
    taken = []

    def give_lines() -> Iterator[str]:
        yield line + "\n"
        for each in islice(lines, 10_000):  # a quote that is not closed by then was none
            taken.append(each)
            yield decode(each[0])[0] + "\n"

    try:
        return next(csv.reader(give_lines(), strict=True, **dialect)), taken, None
    except csv.Error as error:
        fault, _, _ = str(error).partition(" - ")
        return [], taken, "a quote is not closed" if "unexpected end" in fault else fault


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise TextDataError(f"the name {name!r} is there twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_make_object)
