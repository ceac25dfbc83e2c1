"""A file of texts as rows: what format it has, by its content first and its ending second."""

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path

from stages.errors import Settings, TextDataError
from stages.reporter import Reporter
from stages.texts import rows
from stages.texts.rows import BATCH, Found, Row, decode, make_row
from stages.texts.source import PACKED, Lines, as_utf8, open_source, unpack

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

    Attributes:
        kind: Its format and how that was known; empty until the first rows are there.
        blank: How many blank lines have been skipped.
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
