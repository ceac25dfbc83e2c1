"""Commit records: the statement, made after the fact, that a shard is whole and on the disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cache.format.documents import (
    DocumentError,
    check_keys,
    check_seal,
    integer,
    mapping,
    parse,
    seal,
    text,
)
from cache.format.layout import Layout
from cache.format.manifest import FORMAT_VERSION, FileInfo
from cache.format.shards import largest_object, object_path

DIRECTORY = "commits"
LARGEST_RECORD = 2**20

_KEYS = (
    "format_version",
    "fingerprint",
    "shard",
    "rows",
    "files",
    "seconds",
    "finished",
    "checksum",
)
_SUFFIX = ".json"
_LONGEST = 16
"""Digits of a file name, beyond which it is no shard's and not worth the conversion."""


@dataclass(frozen=True)
class CommitRecord:
    """What was committed, and what a reader must find.

    Attributes:
        fingerprint: Of the cache.
        shard: Number of the shard.
        rows: First row, and the row behind the last, in the whole cache.
        files: Size and hash of the shard's object of every column, by path.
        seconds: What computing it took, as the writer says.
        finished: When it was committed.
    """

    fingerprint: str
    shard: int
    rows: tuple[int, int]
    files: Mapping[str, FileInfo]
    seconds: float
    finished: datetime

    def to_bytes(self) -> bytes:
        """Return the contents of the record's file."""
        return seal(
            {
                "format_version": FORMAT_VERSION,
                "fingerprint": self.fingerprint,
                "shard": self.shard,
                "rows": list(self.rows),
                "files": {path: info.to_document() for path, info in self.files.items()},
                "seconds": self.seconds,
                "finished": self.finished.isoformat(),
            }
        )

    @staticmethod
    def from_bytes(data: bytes, layout: Layout, fingerprint: str, shard: int) -> CommitRecord:
        """Read a record of unknown origin.

        Args:
            data: Contents of the file; at most ``LARGEST_RECORD`` + 1 bytes need be read.
            layout: Layout of the cache it lies in.
            fingerprint: Fingerprint of that cache.
            shard: Number of the shard, from the file's name.

        Raises:
            DocumentError: It is no record, was changed, or is of another cache or shard.
        """
        document = parse(data, LARGEST_RECORD)
        check_keys(document, _KEYS, "commit record")
        integer(document["format_version"], "format_version", FORMAT_VERSION, FORMAT_VERSION)
        check_seal(document, data)
        if document["fingerprint"] != fingerprint:
            raise DocumentError("of another cache (its fingerprint is not this one's)")
        if document["shard"] != shard or type(document["shard"]) is not int:
            raise DocumentError(f"of another shard, {document['shard']!r:.40}")
        rows = layout.rows_of(shard)
        if document["rows"] != [rows.start, rows.stop]:
            raise DocumentError(f"its rows are not {rows.start} to {rows.stop}")
        return CommitRecord(
            fingerprint=fingerprint,
            shard=shard,
            rows=(rows.start, rows.stop),
            files=_files(document["files"], layout, shard),
            seconds=_seconds(document["seconds"]),
            finished=_finished(document["finished"]),
        )


def record_path(shard: int) -> str:
    """Return where the commit record of a shard lies, from the cache directory on."""
    return f"{DIRECTORY}/{_file_name(shard)}"


def _file_name(shard: int) -> str:
    return f"{shard:06d}{_SUFFIX}"


def committed_shards(names: Iterable[str], shards: int) -> list[int]:
    """Return, sorted, the shards of which there is a record among these file names.

    Args:
        names: What lies in the directory of records.
        shards: Number of shards of the cache; records beyond are of no consequence.
    """
    found = set()
    for name in names:
        digits = name[: -len(_SUFFIX)]
        if name.endswith(_SUFFIX) and digits.isdecimal() and len(digits) < _LONGEST:
            shard = int(digits)
            # The name must be the very one that is written: 0000012.json is nobody's record.
            if shard < shards and name == _file_name(shard):
                found.add(shard)
    return sorted(found)


def _files(document: object, layout: Layout, shard: int) -> dict[str, FileInfo]:
    data = mapping(document, "files")
    columns = {object_path(name, column, shard): column for name, column in layout.columns.items()}
    check_keys(data, tuple(columns), "files")
    return {
        path: FileInfo.from_document(data[path], path, largest_object(layout, column))
        for path, column in columns.items()
    }


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise DocumentError(f"seconds: got {value!r:.40}, must be a number from 0 on")
    return float(value)


def _finished(value: object) -> datetime:
    stamp = text(value, "finished", 40)
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError as error:
        raise DocumentError(f"finished: {stamp!r} is not a time in ISO 8601") from error
    if moment.tzinfo is None:
        raise DocumentError(f"finished: {stamp!r} has no time zone")
    return moment
