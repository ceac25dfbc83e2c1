"""Who may write which shard of a cache in an object store: a lease that its holder renews.

A lease is an object with its holder's name in it, taken, renewed, taken over and given back by puts
on condition of the version that was read.  One that is not renewed for its length has lapsed: its
holder is dead, suspended or cut off, and does not count on it (:meth:`Lease.is_held`).  An empty
object is a lease given back: a removal cannot be put under a condition.  No two machines' clocks
are compared: a lease's age is the time between its last put and another put just made, both by the
store's clock, which is exact to a second.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cache.errors import StorageError
from cache.stores.bucket import Bucket, Found, open_bucket
from cache.stores.interface import Claim, Claims, LiveClaim, being_removed, in_use

if TYPE_CHECKING:
    from obstore import UpdateVersion

LEASE_SECONDS = 60.0
# What a lease says of itself beyond this is not believed, or nobody could take it over.
LONGEST_SECONDS = 3600.0
LARGEST_LEASE = 4096
RELEASED = b""
RENEWALS = 4  # times that a lease is renewed within its length
MARGIN = 1 / 6  # share of its length before whose end the holder stops to count on it
LOOKS = 12  # times within a lease's length that somebody who waits for it looks at it
CLOCK_RESOLUTION = 1.0
_CREATOR, _REMOVER, _CLOCK = "creator.json", "remover.json", "clock"
_LEASE = re.compile(r"([0-9]{6,})\.json")


@dataclass(frozen=True)
class Terms:
    """What a lease says of itself."""

    owner: str  # the lease's own name, which no other has
    host: str  # name of the holder's machine, empty where unknown
    pid: int  # the holder's process id there, 0 where unknown
    seconds: float  # how long it lasts after each renewal

    @staticmethod
    def read(data: bytes) -> Terms:
        """Return the terms in an object of unknown origin; what is not there is unknown."""
        try:
            document = json.loads(data[:LARGEST_LEASE])
        except (ValueError, RecursionError):
            document = None
        document = document if isinstance(document, dict) else {}
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
        """Return the bytes of a lease with these terms, different each time."""
        # Where a version is a hash of the bytes, equal bytes would let a lease that was judged
        # lapsed be taken over although it was renewed since.
        return json.dumps({**vars(self), "renewal": uuid.uuid4().hex}).encode()


class Lease(Claim):
    """A lease that this process has taken, renewed until released or lost."""

    def __init__(
        self, bucket: Bucket, path: str, terms: Terms, version: UpdateVersion, began: float
    ) -> None:
        match = _LEASE.fullmatch(path)
        self.shard = int(match[1]) if match else -1
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
        threading.Thread(target=self._keep, name=f"renews {path}", daemon=True).start()

    def is_held_in(self, claims: Claims) -> bool:
        """Say whether this process can be sure of the claim, and has it there."""
        is_there = isinstance(claims, LeasedClaims) and claims.bucket.url == self._bucket.url
        return is_there and self.is_held()

    def is_held(self) -> bool:
        """Say whether it is certain that nobody else has had this lease since it was taken."""
        # A forked child has the parent's lease, which is not its own; and no thread that renews.
        if self._pid != os.getpid():
            return False
        if not self._is_fresh():  # it could have lapsed meanwhile: the store is asked
            with suppress(StorageError):  # not certain, then
                self._renew()
        return self._is_fresh()

    def release(self) -> None:
        """Give the lease back; doing so again, or after it was lost, does nothing."""
        if self._pid != os.getpid() or self._is_over.is_set():
            return
        self._is_over.set()
        with self._lock:
            if not self._is_lost:
                with suppress(StorageError):  # it lapses by itself
                    self._bucket.put(self._path, RELEASED, self._version)

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
                version = self._bucket.put(self._path, self._terms.write(), self._version)
                if version is not None:
                    self._version, self._began = version, began
                    return
                # A renewal that seemed to fail may have got there all the same.
                found = self._bucket.get(self._path, LARGEST_LEASE)
                if found is None or Terms.read(found.data).owner != self._terms.owner:
                    self._is_lost = True
                    return
                self._version = found.version


class LeasedClaims:
    """The leases below one prefix, one object each; see :class:`cache.stores.interface.Claims`.

    Every method that takes a lease raises StorageError where the store does not support conditional
    writes.  ``seconds`` is the length of the leases that are taken here; others' have their own.
    """

    def __init__(self, place: str | Bucket, seconds: float | None = None) -> None:
        self.seconds = LEASE_SECONDS if seconds is None else seconds
        # A request must end well before the lease does, or a renewal could not be tried again.
        most = max(5.0, self.seconds / 6)
        self.bucket = place if isinstance(place, Bucket) else open_bucket(place, most)
        self._cache = self.bucket.url.rpartition("/")[0]
        self._looked_until: dict[int, float] = {}
        self._is_tried = False

    def take_first(self, shards: Iterable[int], is_done: Callable[[int], bool]) -> Lease | None:
        """Claim the first shard that has no live lease and that is still to be done."""
        self._try_conditions()
        now = functools.cache(self._now)
        for shard in shards:
            if boot_time() < self._looked_until.get(shard, 0.0):
                continue
            lease = self._take(f"{shard:06d}.json", now)
            if lease is None:  # not looked at for a while, so that waiting costs little
                self._looked_until[shard] = boot_time() + self.seconds / LOOKS
                continue
            try:
                if not is_done(shard):
                    # After the lease is there: of the two, one at least sees the other.
                    if self._look(_REMOVER, now)[1] is not None:
                        raise being_removed(self._cache)
                    return lease
            except BaseException:
                lease.release()
                raise
            lease.release()
        return None

    def live(self) -> list[LiveClaim]:
        """Return the claims with live leases, this process's among them, by shard."""
        found = []
        now = functools.cache(self._now)  # asked only where somebody's lease is in the way
        for path, size in self.bucket.walk():
            match = _LEASE.fullmatch(path)
            if match is None or size == len(RELEASED):
                continue
            if (terms := self._look(path, now)[1]) is not None:
                found.append(LiveClaim(int(match[1]), terms.host, terms.pid))
        return sorted(found, key=lambda claim: claim.shard)

    @contextmanager
    def creating(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to create the cache, waiting for as long as a live process holds it."""
        self._try_conditions()
        while (lease := self._take(_CREATOR, self._now)) is None:
            time.sleep(min(1.0, self.seconds / LOOKS))
        with lease:
            yield lease.is_held

    @contextmanager
    def removing(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to remove the cache; nobody can claim a shard meanwhile."""
        self._try_conditions()
        lease = self._take(_REMOVER, self._now)
        if lease is None:
            raise being_removed(self._cache)
        with lease:
            if held := self.live():
                advice = f"stop it first, or wait {self.seconds:.0f} seconds if it was killed"
                raise in_use(self._cache, held, advice)
            yield lease.is_held

    def _take(self, path: str, now: Callable[[], datetime]) -> Lease | None:
        found, holder = self._look(path, now)
        if holder is not None:
            return None
        terms = Terms(uuid.uuid4().hex, socket.gethostname(), os.getpid(), self.seconds)
        began = boot_time()
        version = self.bucket.put(path, terms.write(), found.version if found else "create")
        return None if version is None else Lease(self.bucket, path, terms, version, began)

    def _look(self, path: str, now: Callable[[], datetime]) -> tuple[Found | None, Terms | None]:
        """Return what is there, and its terms if it is a live lease."""
        found = self.bucket.get(path, LARGEST_LEASE)
        if found is None or found.data == RELEASED:
            return found, None
        terms = Terms.read(found.data)
        age = (now() - found.modified).total_seconds()
        return found, terms if age < terms.seconds + CLOCK_RESOLUTION else None

    def _now(self) -> datetime:
        self.bucket.put(_CLOCK, b"", "overwrite")
        if (found := self.bucket.get(_CLOCK, 0)) is None:
            raise StorageError(f"{self.bucket.url} is being removed")
        return found.modified

    def _try_conditions(self) -> None:
        if self._is_tried:
            return
        # Some stores, and some proxies before them, carry out whatever they are asked to.
        twice = all(self.bucket.put(_CLOCK, b"", "create") for _ in range(2))
        if twice or self.bucket.put(_CLOCK, b"", {"e_tag": '"none"', "version": "1"}):
            raise StorageError(
                f"the store of {self._cache} does not support conditional writes (If-None-Match, "
                "If-Match), so that two processes could write the same shard; use one that does"
            )
        self._is_tried = True


def boot_time() -> float:
    """Return seconds on a clock that goes on while the machine is suspended."""
    # Elsewhere than on Linux the monotonic clock itself does.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _text(value: object) -> str:
    return value[:255] if isinstance(value, str) and value.isprintable() else ""
