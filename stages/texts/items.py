"""Objects of a JSON array, or one behind the other over several lines, as they come."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

from stages.texts.rows import Row, make_bad_row, read_line
from stages.texts.source import LONGEST, Stream

BETWEEN = re.compile(r"[ \t\r\n,]*")


class Items:
    """The rows of such a file; memory is taken for what is read at once, or for one item."""

    def __init__(self, stream: Stream, text_column: str) -> None:
        self._stream, self._text_column = stream, text_column
        self._text, self._at, self._line, self._is_over = "", 0, 1, False
        self._find = json.JSONDecoder(parse_int=str).raw_decode
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    @property
    def waiting(self) -> bool:
        """Whether more is there already."""
        return BETWEEN.fullmatch(self._text, self._at) is None

    def __iter__(self) -> Iterator[Row]:
        number, is_open = 1, False
        while self._skip():
            if self._text[self._at] == ("]" if is_open else "["):
                is_open, self._at = not is_open, self._at + 1
                continue
            try:
                end = self._find_end()
            except (json.JSONDecodeError, RecursionError) as error:
                at, reason = getattr(error, "pos", self._at), getattr(error, "msg", error)
                line = self._line + self._text.count("\n", 0, at)
                # Nobody knows where the next item begins.
                yield make_bad_row(number, f"not JSON ({reason} in line {line})", "item")
                return
            raw = self._text[self._at : end].encode("utf-8", "surrogateescape")
            yield read_line(raw, number, True, self._text_column, "item")
            number, self._at = number + 1, end
        if is_open:
            yield make_bad_row(number, "not there: the array is not closed", "item")

    def _skip(self) -> bool:
        """Go to what comes next, and return whether there is anything."""
        while self.waiting is False and not self._is_over:
            self._read()
        found = BETWEEN.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at < len(self._text)

    def _find_end(self) -> int:
        while True:
            try:
                return self._find(self._text, self._at)[1]
            except json.JSONDecodeError as error:
                # What fails near the end of what is there may only be cut.
                is_cut = error.msg.startswith("Unterminated") or error.pos + 16 > len(self._text)
                if self._is_over or not is_cut or len(self._text) - self._at > LONGEST:
                    raise
            self._read()

    def _read(self) -> None:
        self._line += self._text.count("\n", 0, self._at)
        data = self._stream.take()
        self._is_over = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, final=self._is_over)
        self._at = 0
