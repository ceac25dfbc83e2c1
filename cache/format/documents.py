"""JSON files that a person can read and that nobody can change unnoticed.

A sealed document carries the SHA-256 of its contents, and its bytes are a function of them.  So one
comparison with what its contents would be written as finds any changed, missing or added byte.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cache.errors import ManifestError

CHECKSUM = "checksum"
DEEPEST = 32
LARGEST_INTEGER = 2**64 - 1
STRICT = ConfigDict(strict=True, extra="forbid")

T = TypeVar("T")


class DocumentError(ValueError):
    """A value cannot stand in a document, or bytes are not a sealed document."""


def checked(cls: type[T]) -> type[T]:
    """Have a pydantic dataclass that code makes raise ManifestError for types and bounds."""
    make, names = cls.__init__, [field.name for field in fields(cls)]  # type: ignore[arg-type]

    @wraps(make)
    def init(self: T, *arguments: Any, **settings: Any) -> None:
        # By name, so that messages name the field.
        named = dict(zip(names, arguments, strict=False))
        try:
            make(self, *arguments[len(names) :], **named, **settings)
        except ValidationError as error:
            raise ManifestError(f"{cls.__name__.lower()}: {_explain(error)}") from error

    cls.__init__ = init  # type: ignore[assignment, method-assign]
    return cls


def build(kind: type[T], document: object) -> T:
    """Return a typed value from a part of a document whose seal was checked, or DocumentError."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise DocumentError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where:.200}: {first['msg']}, got {first['input']!r:.80}"


def plain(value: object, where: str, floats: bool = False, depth: int = 0) -> Any:
    """Copy a value that JSON gives back exactly as it was, or raise DocumentError.

    Such are None, bool, int of up to 64 bits, str, and lists, tuples and mappings of these; the
    copy is made of dicts with text keys and lists.
    """
    if depth > DEEPEST:
        raise DocumentError(f"{where}: nested more than {DEEPEST} deep")
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]", floats, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        copy = {}
        for key, item in value.items():
            if type(key) is not str:
                raise DocumentError(f"{where}: the key {key!r} is not text")
            name = plain(key, where)
            copy[name] = plain(item, f"{where}.{key}", floats, depth + 1)
        return copy
    if type(value) is float:
        if not floats:
            # 1 and 1.0, 0.1 and 0.10000000000000001: equal settings would get two identities.
            raise DocumentError(f"{where}: got the float {value!r}; give it as text or an integer")
        if not math.isfinite(value):
            raise DocumentError(f"{where}: got {value!r}, must be finite")
    elif type(value) is int:
        if abs(value) > LARGEST_INTEGER:
            raise DocumentError(f"{where}: an integer of more than 64 bits")
    elif type(value) is str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DocumentError(f"{where}: text with half a surrogate pair") from error
    elif value is not None and not isinstance(value, bool):
        raise DocumentError(f"{where}: a {type(value).__name__} cannot be written as JSON")
    return value


def canonical(value: object) -> bytes:
    """Return the one way in which a plain value is written for hashing: equal means equal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def seal(document: Mapping[str, Any]) -> bytes:
    """Return the file of a plain document: indented UTF-8 with the checksum as its last key."""
    sealed = {**document, CHECKSUM: hashlib.sha256(canonical(document)).hexdigest()}
    text = json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def parse(data: bytes, limit: int) -> dict[str, Any]:
    """Parse bytes of unknown origin as a JSON mapping, or raise DocumentError; it may be unsealed.

    ``limit`` is the most bytes that are looked at.
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


def check_seal(document: Mapping[str, Any], data: bytes) -> dict[str, Any]:
    """Return the contents of a document that is to the byte what :func:`seal` made, or raise."""
    contents = {key: value for key, value in document.items() if key != CHECKSUM}
    try:
        if seal(contents) == data:
            return contents
    except (ValueError, RecursionError):  # infinities and half surrogates that JSON lets through
        pass
    raise DocumentError("changed after it was written (its checksum does not fit)")
