"""What a cache is of: everything its rows depend on, spelled out, and the fingerprint of that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from cache.errors import ManifestError, VersionError
from cache.format.documents import (
    CHECKSUM,
    STRICT,
    DocumentError,
    build,
    canonical,
    check_seal,
    checked,
    parse,
    plain,
    seal,
)
from cache.format.layout import Layout

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 4 * 2**20
LARGEST_FILE = 2**40
LARGEST_METADATA = 2**20
ATTACHMENTS = "attachments/"

_ATTACHMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, config=STRICT)
class FileInfo:
    """What the bytes of a file must be: their number, and SHA-256 in hexadecimal."""

    size: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @staticmethod
    def of(data: bytes) -> FileInfo:
        """Return the description of these bytes."""
        return FileInfo(len(data), hashlib.sha256(data).hexdigest())

    def fault(self, data: bytes | None) -> str | None:
        """Say what is wrong with the bytes found in place of these, or None if nothing is."""
        if data is None:
            return "missing"
        if len(data) != self.size:
            size = f"more than {self.size}" if len(data) > self.size else str(len(data))
            return f"{size} bytes instead of {self.size}"
        if hashlib.sha256(data).hexdigest() != self.sha256:
            return "changed since it was written (its SHA-256 does not fit)"
        return None


@checked
@dataclass(frozen=True, config=STRICT)
class Manifest:
    """The identity of a cache and a description of it.

    Attributes:
        inputs: Everything the rows depend on: nested mappings and lists of text, integers, true,
            false and None. Floats are refused, since equal ones can be written in several ways.
        notes: Anything else worth keeping; not part of the identity, floats allowed.
        files: Every file that is fixed at creation, by path; filled in then, as is ``created``.
    """

    label: Annotated[str, Field(max_length=200)]
    inputs: Mapping[str, Any]
    layout: Layout
    notes: Mapping[str, Any] = field(default_factory=dict)
    files: dict[str, FileInfo] = field(default_factory=dict)
    created: Annotated[str, Field(max_length=40)] = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        try:
            plain(self.label, "label")
            # Copies, so that what the caller does to its own mappings later changes no identity.
            copies = {
                "inputs": plain(self.inputs, "inputs"),
                "notes": plain(self.notes, "notes", floats=True),
                "files": dict(self.files),
            }
        except DocumentError as error:
            raise ManifestError(f"manifest: {error}") from error
        for name, copy in copies.items():
            object.__setattr__(self, name, copy)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the format version, the inputs and the layout."""
        identity = {
            "format_version": self.format_version,
            "inputs": self.inputs,
            "layout": asdict(self.layout),
        }
        return hashlib.sha256(canonical(identity)).hexdigest()

    @property
    def directory(self) -> str:
        """Name of the directory of this cache, below whichever root."""
        return self.fingerprint[:32]

    @property
    def attachments(self) -> dict[str, FileInfo]:
        """Attachments by name."""
        return {
            path.removeprefix(ATTACHMENTS): info
            for path, info in self.files.items()
            if path.startswith(ATTACHMENTS)
        }

    def to_bytes(self) -> bytes:
        """Return the contents of ``manifest.json``; ManifestError if no reader accepts so many."""
        first = {"format_version": self.format_version, "fingerprint": self.fingerprint}
        data = seal(first | asdict(self))
        if len(data) > LARGEST_MANIFEST:
            raise ManifestError(
                f"manifest: {len(data)} bytes, at most {LARGEST_MANIFEST} are allowed; put large "
                "things into attachments and their hashes into the inputs"
            )
        return data

    @staticmethod
    def from_bytes(data: bytes, source: str) -> Manifest:
        """Read a manifest of unknown origin; ``source`` is where it lies, for messages.

        Raises:
            VersionError: It was written in another version of the format.
            ManifestError: It is not a manifest, or was changed after it was written.
        """
        try:
            document = parse(data, LARGEST_MANIFEST)
            # First of all, since another version may differ in everything else.
            version = document.get("format_version")
            if type(version) is int and version != FORMAT_VERSION:
                _check_version(document)
                kind = "a newer" if version > FORMAT_VERSION else "an older"
                raise VersionError(
                    f"{source}: format version {version!r:.40} is of {kind} release; this one "
                    f"reads version {FORMAT_VERSION}"
                )
            keys = {"fingerprint", CHECKSUM, *(field.name for field in fields(Manifest))}
            if type(version) is not int or document.keys() != keys:
                raise DocumentError("its keys or its format_version are not those of a manifest")
            contents = check_seal(document, data)
            stated = contents.pop("fingerprint")
            contents["layout"] = layout = build(Layout, document["layout"])
            if canonical(asdict(layout)) != canonical(document["layout"]):
                raise DocumentError("layout: a column lacks a key")
            contents["files"] = build(dict[str, FileInfo], document["files"])
            _check_files(contents["files"], layout)
            manifest = Manifest(**contents)
            datetime.fromisoformat(manifest.created)
            if manifest.fingerprint != stated:
                raise DocumentError(
                    f"it states the fingerprint {stated!r:.80}, its contents have "
                    f"{manifest.fingerprint}"
                )
        except (ValueError, ManifestError) as error:
            raise ManifestError(f"{source} is not a sound manifest: {error}") from error
        return manifest


def check_attachment_name(name: str) -> str:
    """Return the path of an attachment; ManifestError if its name leads out or is not portable."""
    if type(name) is not str or not _ATTACHMENT.fullmatch(name) or ".." in name:
        raise ManifestError(
            f"attachment name {name!r:.80} must be letters, digits, '-', '_' and single '.'"
        )
    return ATTACHMENTS + name


def _check_version(document: Mapping[str, Any]) -> None:
    # A flipped bit in this one digit would otherwise make a cache one that nobody may repair.
    contents = {key: value for key, value in document.items() if key != CHECKSUM}
    try:
        ours = canonical({**contents, "format_version": FORMAT_VERSION})
    except (ValueError, RecursionError):  # whatever it is, it was never sealed as ours
        return
    if hashlib.sha256(ours).hexdigest() == document.get(CHECKSUM):
        raise DocumentError("its format_version was changed after it was written")


def _check_files(files: Mapping[str, FileInfo], layout: Layout) -> None:
    metadata = {"rows/zarr.json", *(f"rows/{name}/zarr.json" for name in layout.columns)}
    for path, info in files.items():
        if path.startswith(ATTACHMENTS):
            check_attachment_name(path.removeprefix(ATTACHMENTS))
        elif path not in metadata:
            raise DocumentError(f"files: {path!r:.80} is neither an attachment nor array metadata")
        elif info.size > LARGEST_METADATA:
            raise DocumentError(f"files.{path}.size: more than {LARGEST_METADATA} bytes")
    if not metadata <= files.keys():
        raise DocumentError("files: not all of the layout's columns have metadata")
