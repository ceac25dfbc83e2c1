"""One cache, opened: filled shard by shard, and never believed without a check.

A shard is claimed, written whole, synced, and then committed by publishing its record; until then
it does not exist for anyone.  So a kill costs the shards in flight and nothing else.
"""

import errno
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cache.errors import (
    ClaimError,
    ColumnsError,
    DamageError,
    Hint,
    LostClaimError,
    ManifestError,
    NonFiniteError,
    StorageError,
)
from cache.format import (
    ATTACHMENTS,
    DIRECTORY,
    LARGEST_RECORD,
    MANIFEST,
    CommitRecord,
    DocumentError,
    FileInfo,
    Layout,
    Manifest,
    committed_shards,
    decode,
    encode,
    object_path,
    record_path,
)
from cache.stores import Claim, LiveClaim, Place

Array = npt.NDArray[Any]
T = TypeVar("T")

MISSING = "missing"
_UNREADABLE = (errno.EISDIR, errno.ELOOP, errno.EIO, errno.ENXIO)
"""What is wrong with the file itself; anything else may pass."""


class Cache:
    """A cache as :func:`cache.opening.create_or_open` and :func:`cache.opening.open_cache` give it.

    Opening and reading write nothing, so a cache on a read-only mount can be trained from.
    ``shards`` is the number of shards, committed or not.
    """

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self.place = place
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self.layout: Layout = manifest.layout
        self.shards = self.layout.shards
        self.files = place.open_files()
        self._claims = place.open_claims()

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard, as indices into the whole cache."""
        return self.layout.rows_of(shard)

    def column_path(self, shard: int, name: str) -> str:
        """Return where a shard's rows of a column lie, from the cache directory on."""
        return object_path(name, self.layout.columns[name], shard)

    def paths_of(self, shard: int) -> list[str]:
        """Return where a shard's files lie: one for each column, and its commit record."""
        columns = [self.column_path(shard, name) for name in self.layout.columns]
        return [*columns, record_path(shard)]

    def committed(self) -> list[int]:
        """Return the committed shards, sorted; what they hold is checked when it is read."""
        return committed_shards(self.files.names(DIRECTORY), self.shards)

    @property
    def is_complete(self) -> bool:
        """Whether every shard is committed."""
        return len(self.committed()) == self.shards

    def live_claims(self) -> list[LiveClaim]:
        """Return what live processes are working on, this process included."""
        return self._claims.live()

    def record(self, shard: int) -> CommitRecord:
        """Return the commit record of a shard, checked in itself; DamageError if not sound."""
        path = record_path(shard)
        data = self.files.read(path, LARGEST_RECORD)
        if data is None:
            raise DamageError(self.place, path, MISSING, shard)
        try:
            return CommitRecord.from_bytes(data, self.layout, self.fingerprint, shard)
        except DocumentError as error:
            raise DamageError(self.place, path, str(error), shard) from error

    def read_column(self, record: CommitRecord, name: str) -> Array:
        """Return the rows of one column of a committed shard: read-only (rows, *column.shape).

        DamageError: the file is missing, or not what the record says; nothing was decoded.
        """
        shard, path = record.shard, self.column_path(record.shard, name)
        data = self.read_checked(path, record.files[path], shard)
        try:
            return decode(self.layout, self.layout.columns[name], data, len(self.rows_of(shard)))
        except ValueError as error:
            raise DamageError(self.place, path, str(error), shard) from error

    def read_attachment(self, name: str) -> bytes:
        """Return the bytes of an attachment; ManifestError: there is none, DamageError: changed."""
        if name not in self.manifest.attachments:
            known = ", ".join(self.manifest.attachments) or "none"
            raise ManifestError(f"{self.place} has no attachment {name!r:.80}; it has {known}")
        return self.read_checked(ATTACHMENTS + name, self.manifest.attachments[name])

    def check_metadata(self) -> None:
        """Check zarr's own metadata files against the manifest; DamageError if one was changed."""
        for path, info in self.manifest.files.items():
            if not path.startswith(ATTACHMENTS):
                self.read_checked(path, info)

    def read_checked(self, path: str, info: FileInfo, shard: int | None = None) -> bytes:
        """Return the bytes of a file (of a shard); DamageError if they are not as ``info`` says."""
        data = self.files.read(path, info.size)
        fault = info.fault(data)
        if data is None or fault is not None:
            raise DamageError(self.place, path, str(fault), shard)
        return data

    def claim_next(self) -> Claim | None:
        """Claim the lowest shard that is neither committed nor claimed by a live process.

        None where all is committed or the rest is in the hands of live workers.
        """
        self._check_presence()
        done = set(self.committed())
        candidates = (shard for shard in range(self.shards) if shard not in done)
        claim = self._claims.take_first(candidates, self._is_committed)
        if claim is not None:
            try:
                # Again, since only now nobody can remove the cache any more.
                self._check_presence()
                self._sweep(claim.shard)
            except BaseException:
                claim.release()
                raise
        return claim

    def commit(self, claim: Claim, columns: Mapping[str, Array], seconds: float) -> None:
        """Write and commit the claimed shard, all rows of it: (rows, *column.shape) by column.

        Raises:
            LostClaimError: The claim is not held (any more); the shard was not committed here.
            ClaimError: The shard is committed already.
            ColumnsError: A column is missing, unknown, or of another shape or dtype.
            NonFiniteError: A value is NaN or infinite; nothing is written.
            StorageError: A file could not be written; the shard is not committed.
        """
        shard = claim.shard
        if not claim.is_held_in(self._claims):
            raise LostClaimError(
                f"shard {shard} of {self.place} was not committed: this process has no claim on it"
            )
        if self._is_committed(shard):
            raise ClaimError(f"shard {shard} of {self.place} is committed already")
        if not math.isfinite(seconds) or seconds < 0:
            raise ColumnsError(f"shard {shard}: seconds must be a number from 0 on, got {seconds}")
        rows = self.rows_of(shard)
        _check_columns(self.layout, shard, columns)
        objects = {
            self.column_path(shard, name): encode(self.layout, column, columns[name])
            for name, column in self.layout.columns.items()
        }
        record = CommitRecord(
            fingerprint=self.fingerprint,
            shard=shard,
            rows=(rows.start, rows.stop),
            files={path: FileInfo.of(data) for path, data in objects.items()},
            seconds=float(seconds),
            finished=datetime.now(UTC),
        )
        try:
            self.files.write(objects, lambda: claim.is_held_in(self._claims))
        except StorageError:
            # A full disk is no better for the half of a shard that fitted.
            with suppress(StorageError):
                self._sweep(shard)
            raise
        if not claim.is_held_in(self._claims):
            raise LostClaimError(
                f"shard {shard} of {self.place} was not committed: its claim was lost while it "
                "was written"
            )
        if not self.files.put_if_absent(record_path(shard), record.to_bytes()):
            raise ClaimError(
                f"shard {shard} of {self.place} was committed by someone without its claim",
                Hint.VERIFY,
                self.place,
            )

    def _check_presence(self) -> None:
        if self.files.size(MANIFEST) is None:
            raise StorageError(f"{self.place} was removed while this process worked on it")

    def _is_committed(self, shard: int) -> bool:
        return self.files.size(record_path(shard)) is not None

    def _sweep(self, shard: int) -> None:
        # Whatever lies here without a record is a killed writer's, and the claim is ours.
        for path in self.paths_of(shard):
            self.files.discard(path)


def attempt(check: Callable[[], T]) -> T | str:
    """Return what a check of a file returns or, as text, what is wrong with the file.

    A storage that cannot be used at the moment is another thing, and raised: nothing is ever
    removed for it.
    """
    try:
        return check()
    except DamageError as error:
        return error.fault
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _UNREADABLE:
            raise
        return f"cannot be read ({cause.strerror})"


def first_non_finite(values: Array) -> int | None:
    """Return the first row of an array (rows, ...) with a value that is NaN or infinite."""
    if values.dtype.kind != "f":
        return None
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))


def _check_columns(layout: Layout, shard: int, columns: Mapping[str, Array]) -> None:
    for name in columns:
        if name not in layout.columns:
            raise ColumnsError(f"shard {shard}: there is no column {name!r:.80} in this cache")
    rows = layout.rows_of(shard)
    for name, column in layout.columns.items():
        if name not in columns:
            raise ColumnsError(f"shard {shard}: the column {name!r} is missing")
        values = columns[name]
        wanted = (len(rows), *column.shape)
        if values.shape != wanted or values.dtype != np.dtype(column.dtype):
            raise ColumnsError(
                f"shard {shard}: column {name!r} is {values.dtype} {values.shape}, must be "
                f"{column.dtype} {wanted}"
            )
    # All shapes first: a non-finite value is then known to be the teacher's, not a mix-up's.
    for name in layout.columns:
        if (bad := first_non_finite(columns[name])) is not None:
            raise NonFiniteError(
                f"shard {shard}: column {name!r} of row {rows.start + bad} is NaN or infinite; "
                "nothing of this shard was written"
            )
