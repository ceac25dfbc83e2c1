"""Files of texts: JSON lines, CSV, TSV or plain lines, each also gzipped; as text or as tokens."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from stages.errors import TextDataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.reporter import Reporter

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
TABLE_ENDINGS = {".csv": ",", ".tsv": "\t"}
# Characters in one cell of a table; Python's own limit of 131,072 is too short for articles.
LONGEST_CELL = 16 * 2**20


@dataclass(frozen=True)
class TextRow:
    """One text of a file, the line it begins at, and its label where the file has such a column."""

    line: int
    text: str
    label: str | None


@dataclass(frozen=True)
class EncodedTexts:
    """Every text of a file."""

    lines: np.ndarray  # of the file that each text begins at, shape (N,), int64
    labels: tuple[str | None, ...]
    lengths: np.ndarray  # tokens of each text, shape (N,), int32
    tokens: np.ndarray  # padded with -1, shape (N, longest), int32


def read_texts(path: Path, text_column: str = "text", label_column: str = "label") -> list[TextRow]:
    """Read every text of a file; its ending says the format, anything else is plain lines.

    Args:
        path: The file.
        text_column: Key or column of the text.
        label_column: Key or column of the label, which may be absent.

    Returns:
        The rows in file order; none is skipped.

    Raises:
        TextDataError: The file cannot be read or holds no text, or one row is not what the format
            says; the message names the line.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TextDataError(f"cannot read {path}: {reason}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextDataError(f"{path}, line {line}: not UTF-8; convert the file first") from error
    del data
    # Not str.splitlines: U+2028 and its like are part of a text, not the end of a line.
    lines = io.StringIO(text, newline="")
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending in TABLE_ENDINGS:
        rows = list(_parse_table(lines, path, TABLE_ENDINGS[ending], text_column, label_column))
    else:
        rows = [
            parse_json_row(line, f"{path}, line {number}", number, text_column, label_column)
            if ending in JSON_ENDINGS
            else TextRow(number, line, None)
            for number, line in enumerate((line.rstrip("\r\n") for line in lines), start=1)
        ]
    if not rows:
        raise TextDataError(f"{path} holds no texts")
    return rows


def encode_texts(
    rows: Sequence[TextRow],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    reporter: Reporter,
) -> EncodedTexts:
    """Turn at least one text into tokens; those longer than ``max_length`` keep their first."""
    ids: list[list[int]] = []
    cut = 0
    for begin in range(0, len(rows), 1024):
        texts = [row.text for row in rows[begin : begin + 1024]]
        # Nobody's text ends the input or begins another's: what looks like a control token is text.
        settings = {"add_special_tokens": False, "split_special_tokens": True}
        found = tokenizer(texts, **settings)["input_ids"]
        cut += sum(len(tokens) > max_length for tokens in found)
        ids += [tokens[:max_length] for tokens in found]
    if cut:
        reporter.say(f"{cut:,} of {len(ids):,} texts are cut at {max_length} tokens")
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int32)
    padded = np.full((len(ids), max(1, int(lengths.max()))), -1, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(ids)
    return EncodedTexts(
        np.array([row.line for row in rows]), tuple(row.label for row in rows), lengths, padded
    )


def number_labels(rows: Sequence[TextRow], names: Sequence[str], path: Path) -> np.ndarray:
    """Return each text's label as its column among the names, shape (N,), int64.

    Raises:
        TextDataError: A text has no label or another one; the message names its line.
    """
    for row in rows:
        if row.label not in names:
            label = f"the label {row.label!r} is none of {', '.join(names)}"
            fault = "the text has no label" if row.label is None else label
            raise TextDataError(f"{path}, line {row.line}: {fault}")
    columns: dict[str | None, int] = {name: column for column, name in enumerate(names)}
    return np.array([columns[row.label] for row in rows])


def parse_json_row(
    line: str, where: str, number: int, text_column: str = "text", label_column: str = "label"
) -> TextRow:
    """Parse one JSON line that holds a text.

    Raises:
        TextDataError: It is no object with the text column; the message begins with ``where``.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextDataError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise TextDataError(f"{where}: got a JSON {type(data).__name__}, must be an object")
    if text_column not in data:
        keys = ", ".join(map(repr, list(data)[:10])) or "none"
        raise TextDataError(f"{where}: no key {text_column!r}; there are {keys}")
    text, label = data[text_column], data.get(label_column)
    if not isinstance(text, str):
        raise TextDataError(f"{where}: {text_column!r} is {type(text).__name__}, must be text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"half a surrogate pair ({text[error.start]!r})"
        raise TextDataError(f"{where}: {text_column!r} holds {half}, no character") from error
    if label is not None and not isinstance(label, str | int):
        raise TextDataError(f"{where}: {label_column!r} is {type(label).__name__}, must be text")
    return TextRow(number, text, None if label is None else str(label))


def _parse_table(
    stream: IO[str], path: Path, delimiter: str, text_column: str, label_column: str
) -> Iterator[TextRow]:
    csv.field_size_limit(LONGEST_CELL)
    lines = csv.reader(stream, delimiter=delimiter, strict=True)
    try:
        header = next(lines, None)
        if header is None:
            raise TextDataError(f"{path} is empty; its first line must name the columns")
        if text_column not in header:
            there = ", ".join(map(repr, header[:20]))
            raise TextDataError(f"{path}: no column {text_column!r}; there are {there}")
        text_at = header.index(text_column)
        label_at = header.index(label_column) if label_column in header else None
        begins = lines.line_num + 1
        for cells in lines:
            if cells:
                if len(cells) != len(header):
                    raise TextDataError(
                        f"{path}, line {begins}: {len(cells)} cells, the header has {len(header)}"
                    )
                label = cells[label_at] if label_at is not None else None
                yield TextRow(begins, cells[text_at], label)
            begins = lines.line_num + 1
    except csv.Error as error:
        raise TextDataError(f"{path}, line {lines.line_num}: {error}") from error
