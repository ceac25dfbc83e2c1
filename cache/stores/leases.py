"""Who may write which shard of a cache in an object store: a lease that its holder renews.

A lease is an object with its holder's name in it.  It is taken, renewed, taken over and given back
by puts on condition of the version that was read, so the store decides between any number of
processes.  One that is not renewed for its length has lapsed: its holder is dead, suspended or cut
off, and must not count on it, nor does it (:meth:`Lease.is_held`).  An empty object is a lease
given back; nothing is ever removed, since a removal cannot be put under a condition.

No two machines' clocks are compared.  A lease's age is the time between its last put and another
put just made, both by the store's clock, which is exact to a second.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime

from cache.errors import StorageError
from cache.stores.bucket import Bucket, Found, open_bucket
from cache.stores.interface import Claim, Claims, LiveClaim, being_removed, in_use
from cache.stores.lease import LARGEST_LEASE, LEASE_SECONDS, RELEASED, Lease, Terms, boot_time

LOOKS = 12
"""Times within a lease's length that somebody who waits for it looks at it."""

CLOCK_RESOLUTION = 1.0

_CREATOR = "creator.json"
_REMOVER = "remover.json"
_CLOCK = "clock"
_LEASE = re.compile(r"([0-9]{6,})\.json")


class LeasedClaim(Claim):
    """A lease on a shard, see :class:`cache.stores.interface.Claim`; it can be lost."""

    def __init__(self, claims: LeasedClaims, shard: int, lease: Lease) -> None:
        self.shard = shard
        self._claims = claims
        self._lease = lease

    def is_held_in(self, claims: Claims) -> bool:
        """Say whether this process can be sure of the claim, and has it there."""
        return (
            isinstance(claims, LeasedClaims)
            and claims.bucket.url == self._claims.bucket.url
            and self._lease.is_held()
        )

    def release(self) -> None:
        """Give the claim back; doing so again does nothing."""
        self._lease.close()


class LeasedClaims:
    """The leases below one prefix, one object each; see :class:`cache.stores.interface.Claims`.

    Every method that takes a lease raises StorageError where the store does not support
    conditional writes.

    Attributes:
        bucket: The prefix.
        seconds: Length of the leases that are taken here; others' have their own.
    """

    def __init__(self, place: str | Bucket, seconds: float | None = None) -> None:
        self.seconds = LEASE_SECONDS if seconds is None else seconds
        # A request must end well before the lease does, or a renewal could not be tried again.
        self.bucket = (
            place if isinstance(place, Bucket) else open_bucket(place, max(5.0, self.seconds / 6))
        )
        self._looked_until: dict[int, float] = {}
        self._is_tried = False

    def take_first(
        self, shards: Iterable[int], is_done: Callable[[int], bool]
    ) -> LeasedClaim | None:
        """Claim the first shard that has no live lease and that is still to be done.

        A shard that was found taken is not looked at again for a while, so that waiting costs
        the store little.
        """
        self._try_conditions()
        now = _store_clock(self.bucket)
        for shard in shards:
            if boot_time() < self._looked_until.get(shard, 0.0):
                continue
            lease = self._take(_path(shard), now)
            if lease is None:
                self._looked_until[shard] = boot_time() + self.seconds / LOOKS
                continue
            try:
                if not is_done(shard):
                    # After the lease is there: of the two, one at least sees the other.
                    if self._look(_REMOVER, now)[1] is not None:
                        raise being_removed(self._cache)
                    return LeasedClaim(self, shard, lease)
            except BaseException:
                lease.close()
                raise
            lease.close()
        return None

    def live(self) -> list[LiveClaim]:
        """Return the claims with live leases, this process's among them, by shard."""
        found = []
        now = _store_clock(self.bucket)
        for path, size in self.bucket.walk():
            match = _LEASE.fullmatch(path)
            if match is None or size == len(RELEASED):
                continue
            _, terms = self._look(path, now)
            if terms is not None:
                found.append(LiveClaim(int(match[1]), terms.host, terms.pid))
        return sorted(found, key=lambda claim: claim.shard)

    @contextmanager
    def creating(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to create the cache, waiting for as long as a live process holds it."""
        self._try_conditions()
        while (lease := self._take(_CREATOR, _store_clock(self.bucket))) is None:
            time.sleep(min(1.0, self.seconds / LOOKS))
        with closing(lease):
            yield lease.is_held

    @contextmanager
    def removing(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to remove the cache; nobody can claim a shard meanwhile."""
        self._try_conditions()
        lease = self._take(_REMOVER, _store_clock(self.bucket))
        if lease is None:
            raise being_removed(self._cache)
        with closing(lease):
            if held := self.live():
                advice = f"stop it first, or wait {self.seconds:.0f} seconds if it was killed"
                raise in_use(self._cache, held, advice)
            yield lease.is_held

    @property
    def _cache(self) -> str:
        return self.bucket.url.rpartition("/")[0]

    def _take(self, path: str, now: Callable[[], datetime]) -> Lease | None:
        found, holder = self._look(path, now)
        if holder is not None:
            return None
        terms = Terms(uuid.uuid4().hex, socket.gethostname(), os.getpid(), self.seconds)
        began = boot_time()
        if found is None:
            version = self.bucket.create(path, terms.write())
        else:
            version = self.bucket.replace(path, terms.write(), found.version)
        return None if version is None else Lease(self.bucket, path, terms, version, began)

    def _look(self, path: str, now: Callable[[], datetime]) -> tuple[Found | None, Terms | None]:
        """Return what is there, and its terms if it is a live lease."""
        found = self.bucket.get(path, LARGEST_LEASE)
        if found is None or found.data == RELEASED:
            return found, None
        terms = Terms.read(found.data)
        age = (now() - found.modified).total_seconds()
        return found, terms if age < terms.seconds + CLOCK_RESOLUTION else None

    def _try_conditions(self) -> None:
        if self._is_tried:
            return
        # Some stores, and some proxies before them, carry out whatever they are asked to.
        twice = all(self.bucket.create(_CLOCK, b"") for _ in range(2))
        if twice or self.bucket.replace(_CLOCK, b"", {"e_tag": '"none"', "version": "1"}):
            raise StorageError(
                f"the store of {self._cache} does not support conditional writes (If-None-Match, "
                "If-Match), so that two processes could write the same shard; use one that does"
            )
        self._is_tried = True


def _store_clock(bucket: Bucket) -> Callable[[], datetime]:
    """Return the store's time, asked for once and only where somebody's lease is in the way."""

    @functools.cache
    def now() -> datetime:
        bucket.overwrite(_CLOCK, b"")
        if (found := bucket.head(_CLOCK)) is None:
            raise StorageError(f"{bucket.url} is being removed")
        return found[1]

    return now


def _path(shard: int) -> str:
    return f"{shard:06d}.json"
