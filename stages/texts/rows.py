"""One row of a file: its text and its other fields, or why it cannot be read."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.suggestion import suggest
from stages.errors import Settings, TextDataError


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    number: int  # of its unit, from 1; of the line that it begins at
    text: str | None  # None where it cannot be read
    fields: Mapping[str, Any]  # its keys or columns, the text among them; none of a table's blank
    error: str | None = None  # why it cannot be read, and where it stands
    unit: str = "line"  # or item of a JSON array, or row of a table without lines
    is_blank: bool = False  # a line that holds nothing
    invalid_utf8: bool = False  # what was not UTF-8 is U+FFFD


class Number(str):
    """A number that Python or JSON cannot hold, such as 1e999 or NaN, as it was written."""


class RepeatedKeyError(ValueError):
    """An object has a key twice."""


def decode(raw: bytes) -> tuple[str, bool]:
    """Return bytes as text, and whether some of it was not UTF-8 and is U+FFFD now."""
    try:
        return raw.decode("utf-8"), False
    except UnicodeDecodeError:
        return raw.decode("utf-8", errors="replace"), True


def read_line(raw: bytes, number: int, is_json: bool, text_column: str, unit: str = "line") -> Row:
    """Read plain text, or a JSON object with ``text_column``; a blank line is neither."""
    text, invalid = decode(raw.rstrip(b"\r\n"))
    if not is_json or not text.strip():
        fields = {text_column: ""} if is_json else {"text": text}
        return Row(number, "" if is_json else text, fields, None, unit, not text.strip(), invalid)
    try:
        return make_row(DECODER.decode(text), number, text_column, unit, invalid)
    except json.JSONDecodeError as error:
        reason = f"not JSON ({error.msg} at character {error.pos + 1})"
    except RepeatedKeyError as error:
        reason = str(error)
    except RecursionError:
        reason = "not JSON that can be read (too deeply nested)"
    return make_bad_row(number, reason, unit, invalid)


def make_row(
    data: Any, number: int, text_column: str, unit: str = "line", invalid: bool = False
) -> Row:
    """Make a row of what JSON or a table holds; ``data`` should be a dict with the text."""
    reason = _find_fault(data, text_column)
    if reason is not None:
        return make_bad_row(number, reason, unit, invalid)
    return Row(number, data[text_column], data, None, unit, invalid_utf8=invalid)


def make_bad_row(number: int, reason: str, unit: str = "line", invalid: bool = False) -> Row:
    """Make a row that cannot be read."""
    error = f"{unit} {number}: {reason}"
    return Row(number, None, {unit: number}, error, unit, invalid_utf8=invalid)


def check_columns(columns: Sequence[str], text_column: str) -> None:
    """Raise TextDataError where a table lacks the text's column, or names one twice."""
    name, count = Counter(columns).most_common(1)[0]
    if count > 1:
        raise TextDataError(f"the column {name!r} is there twice")
    if text_column not in columns:
        fault = describe_missing("column", text_column, columns)
        raise TextDataError(fault, Settings(("text_column",)))


def describe_missing(kind: str, name: str, there: Sequence[str]) -> str:
    """Return that a key or column is missing, which there are, and the nearest of them."""
    near = suggest(name, there)
    keys = ", ".join(map(repr, there[:20])) or "none"
    return f"no {kind} {name!r}; there are {keys}{near if near.startswith(' (') else ''}"


def make_jsonable(value: Any) -> Any:
    """Return what JSON can hold of a value: what it cannot becomes text, bytes as base64."""
    if isinstance(value, float):
        # As protobuf spells them in JSON: NaN, Infinity and -Infinity.
        return value if math.isfinite(value) else json.dumps(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): make_jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [make_jsonable(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _find_fault(data: Any, text_column: str) -> str | None:
    if not isinstance(data, Mapping):
        return f"got a JSON {type(data).__name__}, must be an object"
    if text_column not in data:
        return describe_missing("key", text_column, list(data))
    text = data[text_column]
    if not isinstance(text, str) or isinstance(text, Number):
        return f"{text_column!r} is {type(text).__name__}, must be text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"half a surrogate pair ({text[error.start]!r})"
        return f"{text_column!r} holds {half}, no character"
    return None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RepeatedKeyError(f"the key {name!r} is there twice")
    return found


def _read_integer(digits: str) -> int | Number:
    try:
        return int(digits)
    except ValueError:  # Python reads no more than 4,300 digits
        return Number(digits)


def _read_float(digits: str) -> float | Number:
    found = float(digits)
    return found if math.isfinite(found) else Number(digits)


DECODER = json.JSONDecoder(
    object_pairs_hook=_make_object,
    parse_float=_read_float,
    parse_int=_read_integer,
    parse_constant=Number,
)
