"""Tables with a line of column names: CSV and TSV in their dialects."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice

from stages.errors import TextDataError
from stages.texts.rows import Row, check_columns, decode, make_bad_row
from stages.texts.source import LONGEST, Lines

DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with ';'", "|": "CSV with '|'"}
SEPARATOR = re.compile(r'"?sep=(.)"?\s*')  # a spreadsheet's first line
MOST_LINES = 10_000  # of one cell: a quote that is not closed by then was none
FAULTS = {"unexpected end": "a quote is not closed", "new-line": "a carriage return has no quotes"}


def find_delimiter(header: str, text_column: str) -> str | None:
    """Return what stands between the columns, if one of several is the text's; or None."""
    if found := SEPARATOR.fullmatch(header):
        return found[1]
    for delimiter in DELIMITERS:
        columns = _split_header(header, delimiter)
        if len(columns) > 1 and text_column in columns:
            return delimiter
    return None


class Table:
    """The rows of such a file, whose first line names the columns.

    Quotes enclose cells in CSV files and in some TSV files.  In which shows at the first row that
    can be read in one way only; until then what could be enclosed is.
    """

    def __init__(self, lines: Lines, delimiter: str, text_column: str) -> None:
        csv.field_size_limit(LONGEST)
        self._lines, self._delimiter, self._text_column = lines, delimiter, text_column
        self._quoted: bool | None = None  # None: not known yet
        self._spaced = False
        self._invalid = self._begins_invalid = (
            False  # whether this row, its first line is not UTF-8
        )

    def __iter__(self) -> Iterator[Row]:
        header = next(filter(str.strip, map(self._decode, self._lines)), "")
        if SEPARATOR.fullmatch(header):
            header = next(map(self._decode, self._lines), "")
        if not header:
            raise TextDataError("it is empty; its first line must name the columns")
        # Blanks behind the delimiters of the first line stand behind all.
        self._spaced = f"{self._delimiter} " in header
        columns = _split_header(header.strip("\r\n"), self._delimiter, self._spaced)
        check_columns(columns, self._text_column)
        self._quoted = True if self._delimiter != "\t" or '"' in header else None
        for raw in self._lines:
            number, self._invalid = self._lines.number, False
            line = self._decode(raw)
            self._begins_invalid = self._invalid
            if not line.strip(" \r\n"):
                yield Row(number, "", {}, is_blank=True)
                continue
            cells, fault = self._split(line, len(columns))
            if fault is not None:
                yield make_bad_row(number, fault, invalid=self._invalid)
                continue
            fields = dict(zip(columns, cells, strict=True))
            yield Row(number, fields[self._text_column], fields, invalid_utf8=self._invalid)

    def _split(self, line: str, width: int) -> tuple[list[str], str | None]:
        """Return the cells of the row that begins with a line, or what is wrong with it."""
        plain = line.rstrip("\r\n").split(self._delimiter)
        if not self._quoted and (self._quoted is False or '"' not in line):
            return plain, self._check_width(plain, width)
        cells, taken, fault = self._parse(line)
        fits = len(plain) == width
        if self._quoted is None:
            # A cell of several lines, each of which could be a row: they are rows.
            are_rows = width > 1 and all(raw.count(b"\t") == width - 1 for raw in taken)
            if fits and (len(cells) != width or (taken and are_rows)):
                self._quoted = False
                self._put_back(taken)
                return plain, None
            if len(cells) == width and (taken or not fits):
                self._quoted = True
        if len(cells) == width:
            return cells, None
        if "\\" in line:
            self._put_back(taken)
            escaped, more, _ = self._parse(line, escapechar="\\", doublequote=False)
            if len(escaped) == width:
                return escaped, None
            self._put_back(more)
            list(islice(self._lines, len(taken)))
        if fault is not None:
            # The lines behind it may well be rows.
            self._put_back(taken)
            return [], fault
        return [], self._check_width(cells, width)

    def _check_width(self, cells: list[str], width: int) -> str | None:
        return None if len(cells) == width else f"{len(cells)} cells, the header has {width}"

    def _parse(self, line: str, **dialect: object) -> tuple[list[str], list[bytes], str | None]:
        """Return a row's cells, the lines that it takes more, and what is wrong with it."""
        taken: list[bytes] = []

        def give_lines() -> Iterator[str]:
            yield line
            for raw in islice(self._lines, MOST_LINES):
                taken.append(raw)
                yield self._decode(raw)

        common = {"delimiter": self._delimiter, "strict": True, "skipinitialspace": self._spaced}
        try:
            return next(csv.reader(give_lines(), **common, **dialect)), taken, None  # type: ignore[call-overload]
        except csv.Error as error:
            known = (said for begin, said in FAULTS.items() if str(error).startswith(begin))
            return [], taken, next(known, str(error))

    def _put_back(self, lines: list[bytes]) -> None:
        self._lines.put_back(lines)
        self._invalid = self._begins_invalid

    def _decode(self, raw: bytes) -> str:
        text, invalid = decode(raw)
        self._invalid |= invalid
        return text + "\n"


def _split_header(header: str, delimiter: str, spaced: bool = False) -> list[str]:
    try:
        rows = csv.reader([header], delimiter=delimiter, strict=True, skipinitialspace=spaced)
        return next(rows, [])
    except csv.Error:
        return header.split(delimiter)
