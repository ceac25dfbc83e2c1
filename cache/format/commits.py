"""Commit records: the statement, made after the fact, that a shard is whole and on the disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

from pydantic import AwareDatetime, Field
from pydantic.dataclasses import dataclass

from cache.format.documents import STRICT, DocumentError, build, check_seal, parse, seal
from cache.format.layout import MOST_SHARDS, Layout
from cache.format.manifest import FORMAT_VERSION, FileInfo
from cache.format.shards import largest_object, object_path

DIRECTORY = "commits"
LARGEST_RECORD = 2**20

_RECORD = re.compile(r"([0-9]{6})\.json")
"""The very name that is written: 0000012.json is nobody's record."""


@dataclass(frozen=True, config=STRICT)
class CommitRecord:
    """What was committed, and what a reader must find: every column's object, by path.

    ``rows`` are the first one and that behind the last; ``seconds`` is what computing them took.
    """

    fingerprint: str
    shard: int
    rows: tuple[int, int]
    files: dict[str, FileInfo]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    finished: AwareDatetime

    def to_bytes(self) -> bytes:
        """Return the contents of the record's file."""
        contents = asdict(self) | {"finished": self.finished.isoformat()}
        return seal({"format_version": FORMAT_VERSION, **contents})

    @staticmethod
    def from_bytes(data: bytes, layout: Layout, fingerprint: str, shard: int) -> CommitRecord:
        """Read a record of unknown origin; DocumentError unless it is sound and of this shard."""
        document = parse(data, LARGEST_RECORD)
        version = document.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise DocumentError(f"format_version: must be {FORMAT_VERSION}, got {version!r:.40}")
        contents = check_seal(document, data)
        del contents["format_version"]
        record = build(CommitRecord, contents)
        rows = layout.rows_of(shard)
        if record.fingerprint != fingerprint:
            raise DocumentError("of another cache (its fingerprint is not this one's)")
        if (record.shard, record.rows) != (shard, (rows.start, rows.stop)):
            raise DocumentError(
                f"of another shard, or its rows are not {rows.start} to {rows.stop}"
            )
        largest = {
            object_path(name, column, shard): largest_object(layout, column)
            for name, column in layout.columns.items()
        }
        if record.files.keys() != largest.keys():
            raise DocumentError("files: not those of the layout's columns")
        for path, info in record.files.items():
            if info.size > largest[path]:
                raise DocumentError(f"files.{path}.size: more than {largest[path]} bytes")
        return record


def record_path(shard: int) -> str:
    """Return where the commit record of a shard lies, from the cache directory on."""
    return f"{DIRECTORY}/{shard:06d}.json"


def committed_shards(names: Iterable[str], shards: int = MOST_SHARDS) -> list[int]:
    """Return, sorted, the shards below ``shards`` of which a record is among these file names."""
    found = {int(match[1]) for match in map(_RECORD.fullmatch, names) if match}
    return sorted(shard for shard in found if shard < shards)
