"""JSON files that a person can read and that nobody can change unnoticed.

A sealed document carries the SHA-256 of its own contents, and its bytes are a function of its
contents.  So one comparison, of the file with what its contents would be written as, finds any
changed, missing or added byte, white space included.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"
DEEPEST = 32
LARGEST_INTEGER = 2**64 - 1


class DocumentError(ValueError):
    """A value cannot stand in a document, or bytes are not a sealed document."""


def plain(value: object, where: str, floats: bool = False) -> Any:
    """Copy a value that JSON gives back exactly as it was.

    Args:
        value: None, bool, int of up to 64 bits, str, and lists, tuples and mappings of these.
        where: Name of the value, for messages.
        floats: Whether finite floats are allowed too.

    Returns:
        A copy made of dicts with text keys and lists, sharing nothing with the value.

    Raises:
        DocumentError: The value, or something in it, is of another kind; the message names it.
    """
    return _plain(value, where, floats, 0)


def _plain(value: object, where: str, floats: bool, depth: int) -> Any:
    if depth > DEEPEST:
        raise DocumentError(f"{where}: nested more than {DEEPEST} deep")
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int:
        if abs(value) > LARGEST_INTEGER:
            raise DocumentError(f"{where}: an integer of more than 64 bits")
        return value
    if type(value) is float:
        if not floats:
            # 1 and 1.0, 0.1 and 0.10000000000000001: equal settings would get two identities.
            raise DocumentError(f"{where}: got the float {value!r}; give it as text or an integer")
        if not math.isfinite(value):
            raise DocumentError(f"{where}: got {value!r}, must be finite")
        return value
    if type(value) is str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DocumentError(f"{where}: text with half a surrogate pair") from error
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", floats, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        copy = {}
        for key, item in value.items():
            if type(key) is not str:
                raise DocumentError(f"{where}: the key {key!r} is not text")
            copy[_plain(key, where, floats, depth)] = _plain(
                item, f"{where}.{key}", floats, depth + 1
            )
        return copy
    raise DocumentError(f"{where}: a {type(value).__name__} cannot be written as JSON")


def canonical(value: object) -> bytes:
    """Return the one way in which a plain value is written for hashing: equal means equal."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def seal(document: Mapping[str, Any]) -> bytes:
    """Return the file of a plain document: indented UTF-8 with the checksum as its last key.

    Args:
        document: A plain mapping without the key ``checksum``.
    """
    checksum = hashlib.sha256(canonical(document)).hexdigest()
    text = json.dumps(
        {**document, CHECKSUM: checksum}, indent=2, ensure_ascii=False, allow_nan=False
    )
    return (text + "\n").encode("utf-8")


def parse(data: bytes, limit: int) -> dict[str, Any]:
    """Parse bytes of unknown origin as a JSON mapping; whether it is sealed is not checked yet.

    Args:
        data: The contents of a file.
        limit: Most bytes that a sound file of this kind has.

    Raises:
        DocumentError: The bytes are too many, or are not a mapping in JSON.
    """
    if len(data) > limit:
        raise DocumentError(f"more than {limit} bytes")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # both decoders' errors are ValueErrors
        raise DocumentError("not JSON") from error
    if not isinstance(document, dict):
        raise DocumentError(f"a JSON {type(document).__name__} instead of a mapping")
    return document


def check_seal(document: Mapping[str, Any], data: bytes) -> None:
    """Check that a parsed document is, byte for byte, what :func:`seal` made.

    Raises:
        DocumentError: Something in the file was changed after it was written.
    """
    contents = {key: value for key, value in document.items() if key != CHECKSUM}
    try:
        sound = seal(contents) == data
    except (ValueError, RecursionError):  # infinities and half surrogates that JSON lets through
        sound = False
    if not sound:
        raise DocumentError("changed after it was written (its checksum does not fit)")


def check_keys(document: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Check that a mapping has exactly these keys.

    Raises:
        DocumentError: A key is missing or unknown; the message names it.
    """
    for key in keys:
        if key not in document:
            raise DocumentError(f"{where}: the key {key!r} is missing")
    for key in document:
        if key not in keys:
            raise DocumentError(f"{where}: unknown key {key!r}")


def integer(value: object, where: str, low: int, high: int) -> int:
    """Return the value if it is an integer in [low, high].

    Raises:
        DocumentError: It is not.
    """
    if type(value) is not int or not low <= value <= high:
        shown = repr(value)[:80]
        raise DocumentError(f"{where}: got {shown}, must be an integer in [{low}, {high}]")
    return value


def text(value: object, where: str, longest: int) -> str:
    """Return the value if it is text of at most so many characters.

    Raises:
        DocumentError: It is not.
    """
    if type(value) is not str or len(value) > longest:
        shown = repr(value)[:80]
        raise DocumentError(f"{where}: got {shown}, must be text of at most {longest} characters")
    return value


def mapping(value: object, where: str) -> dict[str, Any]:
    """Return the value if it is a mapping with text keys.

    Raises:
        DocumentError: It is not.
    """
    if not isinstance(value, dict) or not all(type(key) is str for key in value):
        raise DocumentError(f"{where}: must be a mapping, got {type(value).__name__}")
    return value
