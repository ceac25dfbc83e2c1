"""A file of texts as rows: what format it has, by its content first and its ending second."""

from __future__ import annotations

import codecs
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO, TYPE_CHECKING

from stages.errors import Settings, TextDataError
from stages.texts.arrow import FORMATS, read_arrow
from stages.texts.items import Items
from stages.texts.rows import Row, read_line
from stages.texts.source import PACKED, Lines, as_utf8, open_source, unpack
from stages.texts.tables import DELIMITERS, Table, find_delimiter

if TYPE_CHECKING:
    from stages.reporter import Reporter

BATCH = 256  # most rows that are given together; fewer where no more are waiting
PLAIN, JSON_LINES, JSON_ITEMS = "plain text", "JSON lines", "JSON"
JSON_ENDINGS = (".jsonl", ".ndjson", ".json", ".jl")
TABLE_ENDINGS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
FIRST_BYTES = 2**16  # of a file in which a line that holds something is looked for
# An array of objects, or one object over several lines.
ITEMS = re.compile(rb'\[\s*\{|\[\s*\]\s*\Z|\{[ \t\r]*\n\s*["}]')
OBJECT = re.compile(rb'\{[ \t]*["}]')


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
    """

    def __init__(
        self,
        path: Path,
        text_column: str = "text",
        format_name: str = "auto",
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Open it; ``check_stop`` is asked while nothing is there to be read.

        With the format ``text`` or ``jsonl`` lines are that; ``auto`` is what it looks like.

        Raises:
            TextDataError: It cannot be opened.
            SettingError: Standard input is closed.
        """
        self.kind = ""
        self._path, self._text_column, self._format = path, text_column, format_name
        with self._explained():
            self._descriptor, self._stream = open_source(path, check_stop)

    def read_batches(self) -> Iterator[list[Row]]:
        """Yield its rows, at least one and at most :data:`BATCH`, as soon as they are there.

        Raises:
            TextDataError: It cannot be read, or what it holds is no text.
        """
        with self._explained(), os.fdopen(self._descriptor, "rb") as file:
            rows, source = self._open_rows(file)
            batch: list[Row] = []
            for row in rows:
                batch.append(row)
                if len(batch) == BATCH or (source is not None and not source.waiting):
                    yield batch
                    batch = []
            if batch:
                yield batch

    def _open_rows(self, file: IO[bytes]) -> tuple[Iterable[Row], Lines | Items | None]:
        """Return the rows, and what knows whether the next one is there; None: it always is."""
        stream, is_packed = unpack(self._stream, self._path)
        head = stream.peek(lambda data: b"\n" in data or len(data) >= 8)
        for magic, kind in FORMATS.items():
            if head.startswith(magic):
                self.kind = f"{kind} (by its first bytes)"
                is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode) and not is_packed
                whole = file if is_file else None
                return read_arrow(stream, whole, kind, self._text_column, BATCH), None
        stream = as_utf8(stream)
        head = stream.peek(_shows_format).lstrip()
        _check_text(head)
        delimiter = self._recognise(head)
        if self.kind.startswith(f"{JSON_ITEMS} ("):
            items = Items(stream, self._text_column)
            return items, items
        lines = Lines(stream)
        if delimiter is not None:
            return Table(lines, delimiter, self._text_column), lines
        is_json = self.kind.startswith(JSON_LINES)
        return (read_line(x, lines.number, is_json, self._text_column) for x in lines), lines

    def _recognise(self, head: bytes) -> str | None:
        """Settle the format, and return what stands between the columns of a table."""
        if self._format != "auto":
            self.kind = f"{JSON_LINES if self._format == 'jsonl' else PLAIN} (as asked)"
            return None
        first = re.split(rb"[\r\n]", head, maxsplit=1)[0].strip()
        endings = [ending.lower() for ending in self._path.suffixes]
        ending = next((ending for ending in reversed(endings) if ending not in PACKED), "")
        delimiter, found, reason = None, PLAIN, "auto: by its first line"
        if ITEMS.match(head):
            found = JSON_ITEMS
        elif OBJECT.match(first):
            found = JSON_LINES
        elif delimiter := find_delimiter(first.decode("utf-8", "replace"), self._text_column):
            found = DELIMITERS.get(delimiter, f"CSV with {delimiter!r}")
        elif ending in TABLE_ENDINGS:
            delimiter, reason = TABLE_ENDINGS[ending], "auto: by its ending"
            found = DELIMITERS[delimiter]
        elif ending in JSON_ENDINGS:
            found, reason = JSON_LINES, "auto: by its ending"
        self.kind = f"{found} ({reason})"
        return delimiter

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Have what fails inside say which file it is about."""
        name = "standard input" if str(self._path) == "-" else self._path
        try:
            yield
        except TextDataError as error:
            raise TextDataError(f"{name}: {error}", error.hint) from error
        except (OSError, EOFError, zlib.error, LZMAError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TextDataError(f"cannot read {name}: {reason}") from error


def read_rows(path: Path, text_column: str, reporter: Reporter | None) -> Iterator[Row]:
    """Yield every row that is not blank, with errors as :func:`read_texts` has them."""
    check_stop = (lambda: None) if reporter is None else reporter.check_stop
    file = TextFile(path, text_column, check_stop=check_stop)
    rows = blank = 0
    for batch in file.read_batches():
        for row in batch:
            if row.invalid_utf8:
                where = f"{path}, {row.unit} {row.number}"
                raise TextDataError(f"{where}: not UTF-8; convert the file first")
            if row.error is not None:
                raise TextDataError(f"{path}, {row.error}")
            blank += row.is_blank
            if not row.is_blank:
                rows += 1
                yield row
    skipped = f"; {describe_blank(blank)}" if blank else ""
    if not rows:
        raise TextDataError(f"{path} holds no texts{skipped}")
    if reporter is not None:
        reporter.say(f"{path}: {file.kind}, {rows:,} texts{skipped}")


def describe_blank(count: int) -> str:
    """Return that so many blank lines are skipped."""
    return f"{count:,} blank {'line is' if count == 1 else 'lines are'} skipped"


def read_texts(
    path: Path,
    text_column: str = "text",
    label_column: str | None = "label",
    reporter: Reporter | None = None,
) -> list[TextRow]:
    """Read every text of a file, of whatever format.

    Args:
        path: The file, a pipe, or ``-`` for standard input; it is read once.
        text_column: Key or column of the text.
        label_column: Key or column of the label, which may be absent; None: labels are not read.
        reporter: Is told what the file is, and of blank lines, which are skipped.

    Returns:
        The rows in file order; none that is not blank is skipped.

    Raises:
        TextDataError: The file cannot be read or holds no text, or one row is not what the format
            says; the message names it.
    """
    return [
        TextRow(row.number, row.text or "", read_label(row, label_column, path))
        for row in read_rows(path, text_column, reporter)
    ]


def read_label(row: Row, column: str | None, path: Path) -> str | None:
    """Return the label of a row; None where it has none."""
    label = row.fields.get(column) if column is not None else None
    if label is None or isinstance(label, str | int | float):
        return None if label is None else str(label)
    raise TextDataError(
        f"{path}, {row.unit} {row.number}: {column!r} is {type(label).__name__}, must be text",
        Settings(("label_column",)),
    )


def _shows_format(head: bytes) -> bool:
    # A bracket alone may be a text.
    text = head.strip()
    return len(head) > FIRST_BYTES or (text not in (b"", b"[", b"{") and b"\n" in head.lstrip())


def _check_text(head: bytes) -> None:
    fault = None
    if head.startswith(b"PK\x03\x04"):
        fault = "a zip archive, as spreadsheets are; unpack it, or save the sheet as CSV"
    elif head[257:262] == b"ustar":
        fault = "a tar archive; unpack it"
    elif b"\0" in head:
        # A zero byte now and then may be part of a text.
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
        if "\ufffd" in text or text.count("\0") > max(8, len(text) // 8):
            fault = "a binary file, of no format that is known"
    if fault is not None:
        raise TextDataError(f"this is {fault}")
