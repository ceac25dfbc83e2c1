"""One lease: an object that its holder renews in the background, and can lose."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cache.errors import StorageError
from cache.stores.bucket import Bucket

if TYPE_CHECKING:
    from obstore import UpdateVersion

LEASE_SECONDS = 60.0
LONGEST_SECONDS = 3600.0
"""What a lease says of itself beyond this is not believed, or nobody could take it over."""

LARGEST_LEASE = 4096
RELEASED = b""
RENEWALS = 4
"""Times that a lease is renewed within its length."""

MARGIN = 1 / 6
"""Share of its length before whose end the holder stops to count on it."""


@dataclass(frozen=True)
class Terms:
    """What a lease says of itself.

    Attributes:
        owner: The lease's own name, which no other has.
        host: Name of the holder's machine, empty where unknown.
        pid: The holder's process id there, 0 where unknown.
        seconds: How long it lasts after each renewal.
    """

    owner: str
    host: str
    pid: int
    seconds: float

    @staticmethod
    def read(data: bytes) -> Terms:
        """Return the terms in an object of unknown origin; what is not there is unknown."""
        try:
            document = json.loads(data[:LARGEST_LEASE])
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            document = {}
        pid: Any = document.get("pid")
        seconds: Any = document.get("seconds")
        is_number = type(seconds) in (int, float) and seconds >= 0
        return Terms(
            owner=_text(document.get("owner")),
            host=_text(document.get("host")),
            pid=pid if type(pid) is int and abs(pid) < 2**63 else 0,
            seconds=min(seconds, LONGEST_SECONDS) if is_number else LEASE_SECONDS,
        )

    def write(self) -> bytes:
        """Return the bytes of a lease with these terms.

        There is something new in them each time: where a version is a hash of the bytes, equal
        bytes would let a lease that was judged lapsed be taken over although it was renewed since.
        """
        return json.dumps({**vars(self), "renewal": uuid.uuid4().hex}).encode()


class Lease:
    """A lease that this process has taken, renewed until closed or lost."""

    def __init__(
        self, bucket: Bucket, path: str, terms: Terms, version: UpdateVersion, began: float
    ) -> None:
        self._bucket = bucket
        self._path = path
        self._terms = terms
        self._version = version
        # Of the last renewal: its start, since the store may count from there.
        self._began = began
        self._is_lost = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        name = f"renews {bucket.url}/{path}"
        threading.Thread(target=self._keep, name=name, daemon=True).start()

    def is_held(self) -> bool:
        """Say whether nobody else can have had this lease since it was taken.

        True only while that is certain.  After a time in which the lease could have lapsed the
        store is asked, by a renewal.
        """
        # A forked child has the parent's lease, which is not its own; and no thread that renews.
        if self._pid != os.getpid():
            return False
        if not self._is_fresh():
            with suppress(StorageError):  # not certain, then
                self._renew()
        return self._is_fresh()

    def close(self) -> None:
        """Give the lease back; doing so again, or after it was lost, does nothing."""
        if self._pid != os.getpid() or self._is_over.is_set():
            return
        self._is_over.set()
        with self._lock:
            if not self._is_lost:
                with suppress(StorageError):  # it lapses by itself
                    self._bucket.replace(self._path, RELEASED, self._version)

    def _is_fresh(self) -> bool:
        if self._is_lost or self._is_over.is_set():
            return False
        return boot_time() - self._began < self._terms.seconds * (1 - MARGIN)

    def _keep(self) -> None:
        while not self._is_over.wait(self._terms.seconds / RENEWALS) and not self._is_lost:
            with suppress(StorageError):  # tried again, until somebody else takes it over
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            for _ in range(2):
                if self._is_lost or self._is_over.is_set():
                    return
                began = boot_time()
                version = self._bucket.replace(self._path, self._terms.write(), self._version)
                if version is not None:
                    self._version, self._began = version, began
                    return
                # A renewal that seemed to fail may have got there all the same.
                found = self._bucket.get(self._path, LARGEST_LEASE)
                if found is None or Terms.read(found.data).owner != self._terms.owner:
                    self._is_lost = True
                    return
                self._version = found.version


def boot_time() -> float:
    """Return seconds on a clock that goes on while the machine is suspended."""
    # Elsewhere than on Linux the monotonic clock itself does.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _text(value: object) -> str:
    return value[:255] if isinstance(value, str) and value.isprintable() else ""
