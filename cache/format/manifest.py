"""What a cache is of: everything its rows depend on, spelled out, and the fingerprint of that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from cache.errors import ManifestError, VersionError
from cache.format.documents import (
    CHECKSUM,
    DocumentError,
    canonical,
    check_keys,
    check_seal,
    integer,
    mapping,
    parse,
    plain,
    seal,
    text,
)
from cache.format.layout import Layout

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 4 * 2**20
LARGEST_FILE = 2**40
LARGEST_METADATA = 2**20
ATTACHMENTS = "attachments/"

_KEYS = (
    "format_version",
    "label",
    "fingerprint",
    "inputs",
    "layout",
    "files",
    "created",
    "notes",
    "checksum",
)
_ATTACHMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_METADATA = re.compile(r"rows/([a-z][a-z0-9_]{0,63}/)?zarr\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileInfo:
    """What the bytes of a file must be.

    Attributes:
        size: Number of bytes.
        sha256: Their SHA-256 in hexadecimal.
    """

    size: int
    sha256: str

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

    def to_document(self) -> dict[str, Any]:
        """Return the description as a plain mapping for JSON."""
        return {"size": self.size, "sha256": self.sha256}

    @staticmethod
    def from_document(document: object, where: str, largest: int) -> FileInfo:
        """Build a description from a parsed mapping of unknown origin.

        Raises:
            DocumentError: The mapping is not one, or the size is beyond ``largest``.
        """
        data = mapping(document, where)
        check_keys(data, ("size", "sha256"), where)
        digest = text(data["sha256"], f"{where}: sha256", 64)
        if not _SHA256.fullmatch(digest):
            raise DocumentError(f"{where}: sha256 must be 64 hexadecimal digits")
        return FileInfo(integer(data["size"], f"{where}: size", 0, largest), digest)


@dataclass(frozen=True)
class Manifest:
    """The identity of a cache and a few words about it.

    Attributes:
        label: Short name for people.
        inputs: Everything the rows depend on: nested mappings and lists of text, integers, true,
            false and None. Floats are refused, since equal ones can be written in several ways.
        layout: Rows, columns, chunks and shards.
        notes: Anything else worth keeping; not part of the identity, floats allowed.
        files: Size and hash of every file that is fixed at creation, by path; filled in then.
        created: When, in ISO 8601; filled in then.
        format_version: Version of everything in the directory.

    Raises:
        ManifestError: The inputs or notes cannot be written as JSON without loss.
    """

    label: str
    inputs: Mapping[str, Any]
    layout: Layout
    notes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileInfo] = field(default_factory=dict)
    created: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        try:
            text(self.label, "label", 200)
            plain(self.label, "label")
            inputs = mapping(plain(self.inputs, "inputs"), "inputs")
            notes = mapping(plain(self.notes, "notes", floats=True), "notes")
        except DocumentError as error:
            raise ManifestError(f"manifest: {error}") from error
        # Copies, so that what the caller does to its own mappings later changes no identity.
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "notes", notes)
        object.__setattr__(self, "files", dict(self.files))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the format version, the inputs and the layout."""
        identity = {
            "format_version": self.format_version,
            "inputs": self.inputs,
            "layout": self.layout.to_document(),
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
        """Return the contents of ``manifest.json``.

        Raises:
            ManifestError: They would be larger than any reader accepts.
        """
        data = seal(
            {
                "format_version": self.format_version,
                "label": self.label,
                "fingerprint": self.fingerprint,
                "inputs": self.inputs,
                "layout": self.layout.to_document(),
                "files": {path: info.to_document() for path, info in self.files.items()},
                "created": self.created,
                "notes": self.notes,
            }
        )
        if len(data) > LARGEST_MANIFEST:
            raise ManifestError(
                f"manifest: {len(data)} bytes, at most {LARGEST_MANIFEST} are allowed; put large "
                "things into attachments and their hashes into the inputs"
            )
        return data

    @staticmethod
    def from_bytes(data: bytes, source: str) -> Manifest:
        """Read a manifest of unknown origin.

        Args:
            data: Contents of the file; at most ``LARGEST_MANIFEST`` + 1 bytes need be read.
            source: Where they came from, for messages.

        Returns:
            The manifest, whose fingerprint is the one stated in the file.

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
            check_keys(document, _KEYS, "manifest")
            integer(version, "format_version", FORMAT_VERSION, FORMAT_VERSION)
            check_seal(document, data)
            layout = Layout.from_document(document["layout"])
            manifest = Manifest(
                label=document["label"],
                inputs=mapping(document["inputs"], "inputs"),
                layout=layout,
                notes=mapping(document["notes"], "notes"),
                files=_files(document["files"], layout),
                created=_time(document["created"]),
            )
        except VersionError:
            raise
        except (DocumentError, ManifestError) as error:
            raise ManifestError(f"{source} is not a sound manifest: {error}") from error
        if manifest.fingerprint != document["fingerprint"]:
            raise ManifestError(
                f"{source} is not a sound manifest: it states the fingerprint "
                f"{document['fingerprint']!r:.80}, its contents have {manifest.fingerprint}"
            )
        return manifest


def check_attachment_name(name: str) -> str:
    """Return the path inside the cache of an attachment of this name.

    Raises:
        ManifestError: The name could lead out of its directory, or is not portable.
    """
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


def _files(document: object, layout: Layout) -> dict[str, FileInfo]:
    files = {}
    for path, item in mapping(document, "files").items():
        if path.startswith(ATTACHMENTS):
            check_attachment_name(path.removeprefix(ATTACHMENTS))
        elif not _METADATA.fullmatch(path):
            raise DocumentError(f"files: {path!r:.80} is neither an attachment nor array metadata")
        largest = LARGEST_FILE if path.startswith(ATTACHMENTS) else LARGEST_METADATA
        files[path] = FileInfo.from_document(item, f"file {path}", largest)
    wanted = ["rows/zarr.json", *(f"rows/{name}/zarr.json" for name in layout.columns)]
    present = [path for path in files if not path.startswith(ATTACHMENTS)]
    if sorted(present) != sorted(wanted):
        raise DocumentError("files: the metadata files are not those of the layout's columns")
    return files


def _time(value: object) -> str:
    stamp = text(value, "created", 40)
    try:
        datetime.fromisoformat(stamp)
    except ValueError as error:
        raise DocumentError(f"created: {stamp!r} is not a time in ISO 8601") from error
    return stamp
