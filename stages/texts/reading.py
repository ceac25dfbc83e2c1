"""Files of texts as rows, as tokens and with their labels, which may stand for those of a task.

What format a file has is known by its content first and its ending second.
"""

from __future__ import annotations

import difflib
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import LabelError, SettingError, Settings, TextDataError
from stages.reporter import Reporter
from stages.texts import rows
from stages.texts.rows import BATCH, Found, Row, decode, describe_missing, make_row
from stages.texts.source import PACKED, Lines, as_utf8, open_source, unpack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN, JSON_LINES, JSON_ARRAY = "plain text", "JSON lines", "JSON"
ENDINGS = dict.fromkeys((".jsonl", ".ndjson", ".json", ".jl"), JSON_LINES)
ENDINGS |= {".csv": "CSV", ".tsv": "TSV", ".tab": "TSV", ".psv": "CSV with '|'"}
ARROW = {b"PAR1": "Parquet", b"ARROW1\0\0": "Arrow", b"\xff\xff\xff\xff": "Arrow stream"}


@dataclass(frozen=True)
class TextRow:
    """One text of a file, the line it begins at, and its label where the file has such a column."""

    line: int  # or the item of a JSON array, or the row of a table without lines
    text: str
    label: str | None


class TextFile:
    """A file, a pipe or standard input (``-``), which is read once, while it comes.

    ``kind`` is its format and how that was known, empty until the first rows are there; ``blank``
    how many blank lines have been skipped.
    """

    def __init__(
        self,
        path: Path,
        text_column: str = "text",
        format_name: str = "auto",
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Open it as ``text``, ``jsonl`` or what it looks like, or raise TextDataError."""
        self.kind, self.blank = "", 0
        self._path, self._column, self._format = path, text_column, format_name
        with self._explained():
            self._descriptor, self._stream = open_source(path, check_stop)

    def read_batches(self) -> Iterator[list[Row]]:
        """Yield its rows, some at a time, as soon as they are there; or raise TextDataError."""
        with self._explained(), os.fdopen(self._descriptor, "rb"):
            found, lines, unit = self._open_rows()
            column = "text" if self.kind.startswith(PLAIN) else self._column
            batch: list[Row] = []
            for each in found:
                self.blank += each is None
                if each is not None:
                    batch.append(make_row(each, column, unit))
                if batch and (len(batch) == BATCH or (lines and not lines.waiting)):
                    yield batch
                    batch = []
            if batch:
                yield batch

    def _open_rows(self) -> tuple[Iterable[Found | None], Lines | None, str]:
        """Return the rows, None for a blank line, the lines that they come from, and their unit."""
        stream = unpack(self._stream, self._path)
        head = stream.peek()
        if name := next((ARROW[magic] for magic in ARROW if head.startswith(magic)), None):
            self.kind = f"{name} (by its first bytes)"
            path = self._path if stream is self._stream and self._path.is_file() else None
            return rows.read_arrow(stream, path, name, self._column), None, "row"
        stream = as_utf8(stream)
        name, reason = self._recognise(stream.peek().lstrip())
        self.kind = f"{name} ({reason})"
        if name == JSON_ARRAY:
            return rows.read_array(stream), None, "item"
        lines = Lines(stream)
        if delimiter := rows.DELIMITERS.get(name):
            return rows.read_table(lines, delimiter, self._column), lines, "line"
        return rows.read_lines(lines, name == JSON_LINES), lines, "line"

    def _recognise(self, head: bytes) -> tuple[str, str]:
        """Return the format of a text that begins so, and how it is known."""
        if head.startswith(b"PK\x03\x04"):
            raise TextDataError("this is a zip archive, or a spreadsheet; unpack or save it as CSV")
        # A zero byte now and then may be part of a text.
        zeros, whole = head.count(b"\0"), head[: head.rfind(b"\n")]
        if zeros > max(2, len(head) // 8) or (zeros and decode(whole)[1]):
            raise TextDataError("this is a binary file, of no format that is known")
        if self._format != "auto":
            return JSON_LINES if self._format == "jsonl" else PLAIN, "as asked"
        name = rows.find_table(decode(head.partition(b"\n")[0].strip())[0], self._column)
        if re.match(rb"\[\s*\{|\[\s*\]\s*\Z", head):
            name = JSON_ARRAY
        elif re.match(rb'\{\s*["}]', head):
            name = JSON_LINES
        ending = next((e for e in map(str.lower, self._path.suffixes[::-1]) if e not in PACKED), "")
        if name is None and ending in ENDINGS:
            return ENDINGS[ending], "auto: by its ending"
        return name or PLAIN, "auto: by its first line"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Have what fails inside say which file it is about."""
        name = "standard input" if str(self._path) == "-" else self._path
        try:
            yield
        except TextDataError as error:
            raise TextDataError(f"{name}: {error}", error.hint) from error
        except ImportError as error:
            install = "pip install -c constraints.txt -e '.[arrow]'"
            raise TextDataError(f"{name}: this takes the package pyarrow: {install}") from error
        except (OSError, EOFError, zlib.error, LZMAError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TextDataError(f"cannot read {name}: {reason}") from error


def read_rows(path: Path, text_column: str, reporter: Reporter | None) -> Iterator[Row]:
    """Yield every row that is not blank, with errors as :func:`read_texts` has them."""
    check_stop = (lambda: None) if reporter is None else reporter.check_stop
    file = TextFile(path, text_column, check_stop=check_stop)
    count = 0
    for row in (row for batch in file.read_batches() for row in batch):
        if row.invalid_utf8:
            raise TextDataError(f"{path}, {row.unit} {row.number}: not UTF-8; convert it first")
        if row.error is not None:
            raise TextDataError(f"{path}, {row.error}")
        count += 1
        yield row
    skipped = f"; blank lines skipped: {file.blank:,}" if file.blank else ""
    if not count:
        raise TextDataError(f"{path} holds no texts{skipped}")
    if reporter is not None:
        reporter.say(f"{path}: {file.kind}, {count:,} texts{skipped}")


def read_texts(
    path: Path,
    text_column: str = "text",
    label_column: str | None = "label",
    reporter: Reporter | None = None,
) -> list[TextRow]:
    """Read every text of a file of any format, a pipe or standard input (``-``), once, in order.

    Labels may be absent; without ``label_column`` they are not read.  The reporter is told what the
    file is, and how many blank lines are skipped.  TextDataError: it cannot be read, holds no text,
    or a row is not as it must be.
    """
    return [
        TextRow(row.number, row.text or "", read_label(row, label_column, path))
        for row in read_rows(path, text_column, reporter)
    ]


def read_label(row: Row, column: str | None, path: Path) -> str | None:
    """Return the label of a row; None where it has none."""
    label = None if column is None else row.fields.get(column)
    if label is None or isinstance(label, str | int | float):
        return None if label is None else str(label)
    where, kind = f"{path}, {row.unit} {row.number}", type(label).__name__
    raise TextDataError(f"{where}: {column!r} is {kind}, must be text", Settings(("label_column",)))


@dataclass(frozen=True)
class EncodedTexts:
    """Every text of a file."""

    lines: np.ndarray  # of the file that each text begins at, shape (N,), int64
    lengths: np.ndarray  # tokens of each text, shape (N,), int32
    tokens: np.ndarray  # padded with -1, shape (N, longest), int32


def encode_texts(
    rows: Sequence[TextRow],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    reporter: Reporter,
) -> EncodedTexts:
    """Turn at least one text into tokens; those longer than ``max_length`` keep their first."""
    ids, cut = list[list[int]](), 0
    for begin in range(0, len(rows), 1024):
        reporter.check_stop()
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
    return EncodedTexts(np.array([row.line for row in rows]), lengths, padded)


def read_labelled_texts(
    path: Path,
    names: Sequence[str],
    text_column: str,
    label_column: str,
    label_map: str,
    reporter: Reporter,
) -> tuple[list[TextRow], np.ndarray]:
    """Read every text of a file, as :func:`read_texts` does, with its label.

    That is one of the names, or stands for it in ``label_map``, such as ``1=good,0=bad``.  Returns
    the rows, labels mapped, and each label's place among the names, shape (N,), int64.
    SettingError: ``label_map`` maps to none; LabelError: a text has no label or another one.
    """
    meant = _parse_label_map(label_map, names)
    rows, unknown, unused = [], dict[str, str](), set(meant)
    for row in read_rows(path, text_column, reporter):
        label = _need_label(row, label_column, path)
        unused.discard(label.strip())
        label = meant.get(label.strip(), label)
        if label not in names:
            unknown.setdefault(label, f"{row.unit} {row.number}")
        rows.append(TextRow(row.number, row.text or "", label))
    if unknown:
        raise _explain_unknown(path, unknown, names)
    if unused:
        reporter.warn(f"label map: {path} has no label {', '.join(map(repr, sorted(unused)))}")
    return rows, np.array([names.index(row.label or "") for row in rows])


def _parse_label_map(text: str, names: Sequence[str]) -> dict[str, str]:
    found = dict[str, str]()
    # A comma may also be part of a name.
    for part in re.split(r",(?=[^,]*=)", text) if text else ():
        label, equals, name = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            fault = f"got {part!r}, must be LABEL=NAME, one or several with commas"
            example = f"1={names[-1]},0={names[0]}"
            raise SettingError(f"label map: {fault}", Settings(("label_map",), example))
        if name not in names:
            raise SettingError(f"label map: {name!r} is none of {_list(name, names)}")
        if found.setdefault(label, name) != name:
            raise SettingError(f"label map: {label!r} is both {found[label]} and {name}")
    return found


def _need_label(row: Row, column: str, path: Path) -> str:
    if (label := read_label(row, column, path)) is not None:
        return label
    fault = f"{column!r} holds nothing"
    if column not in row.fields:
        fault = describe_missing("key or column", column, list(row.fields))
    where = f"{path}, {row.unit} {row.number}"
    raise LabelError(f"{where}: the text has no label: {fault}", Settings(("label_column",)))


def _explain_unknown(path: Path, unknown: Mapping[str, str], names: Sequence[str]) -> LabelError:
    label, where = next(iter(unknown.items()))
    ordered = sorted(unknown, key=lambda text: (len(text) * text.isdigit(), text))
    near = {other: _find_nearest(other, names) for other in ordered[:8]}
    # Classes are mostly numbered in the order in which they are listed.
    left = (name for name in names if name not in near.values())
    pairs = [f"{other.strip()}={name or next(left, names[-1])}" for other, name in near.items()]
    fault = f"the label {label!r} is none of {_list(label, names)}"
    if others := ", ".join(map(repr, list(unknown)[1:6])):
        fault += f"; others like it are {others}"
    return LabelError(f"{path}, {where}: {fault}", Settings(("label_map",), ",".join(pairs)))


def _find_nearest(label: str, names: Sequence[str]) -> str | None:
    folded = {name.strip().casefold(): name for name in names}
    near = difflib.get_close_matches(label.strip().casefold(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


def _list(label: str, names: Sequence[str]) -> str:
    near = _find_nearest(label, names)
    return ", ".join(names) + (f" (did you mean {near!r}?)" if near else "")
