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

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType

from cache.errors import ClaimError, StorageError
from cache.stores.bucket import Bucket, Found, Version, open_bucket
from cache.stores.interface import Claims, LiveClaim
from cache.stores.lease import LARGEST_LEASE, LEASE_SECONDS, RELEASED, Lease, Terms, boot_time

LOOKS = 12
"""Times within a lease's length that somebody who waits for it looks at it."""

CLOCK_RESOLUTION = 1.0

_CREATOR = "creator.json"
_REMOVER = "remover.json"
_CLOCK = "clock"
_LEASE = re.compile(r"([0-9]{6,})\.json")
_NO_VERSION = Version('"none"', "1")


class LeasedClaim:
    """The right to write one shard, until released or until its lease is lost.

    A context manager: leaving it releases the claim, whether or not the shard was committed.
    """

    def __init__(self, claims: LeasedClaims, shard: int, lease: Lease) -> None:
        self._claims = claims
        self._shard = shard
        self._lease = lease

    @property
    def shard(self) -> int:
        """Number of the shard."""
        return self._shard

    def is_held_in(self, claims: Claims) -> bool:
        """Say whether this process can be sure of the claim, and has it there."""
        return (
            isinstance(claims, LeasedClaims)
            and claims.bucket.url == self._claims.bucket.url
            and self._lease.is_held()
        )

    def release(self) -> None:
        """Give the claim back; doing so again does nothing."""
        self._lease.release()

    def __enter__(self) -> LeasedClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class LeasedClaims:
    """The leases below one prefix, one object each.

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

        Args:
            shards: Candidates in order.
            is_done: Asked again about a shard once its lease is held, since its last holder may
                have finished it in the meantime.

        Returns:
            The claim, or None where there is nothing to take.

        Raises:
            ClaimError: The cache is being removed.
            StorageError: The store cannot be reached, refuses, or does not heed conditions.
        """
        self._try_conditions()
        now = _Now(self.bucket)
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
                    self._refuse_remover(now)
                    return LeasedClaim(self, shard, lease)
            except BaseException:
                lease.release()
                raise
            lease.release()
        return None

    def live(self) -> list[LiveClaim]:
        """Return the claims with live leases, this process's among them, by shard.

        Raises:
            StorageError: The store cannot be reached or refuses.
        """
        found = []
        now = _Now(self.bucket)
        for path, size in self.bucket.walk():
            match = _LEASE.fullmatch(path)
            if match is None or size == len(RELEASED):
                continue
            terms = self._find_live(path, now)
            if terms is not None:
                found.append(LiveClaim(int(match[1]), terms.host, terms.pid))
        return sorted(found, key=lambda claim: claim.shard)

    @contextmanager
    def creating(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to create the cache, waiting for as long as a live process holds it.

        Gives a function that says whether the right is still held.

        Raises:
            StorageError: The store cannot be reached, refuses, or does not heed conditions.
        """
        self._try_conditions()
        while (lease := self._take(_CREATOR, _Now(self.bucket))) is None:
            time.sleep(min(1.0, self.seconds / LOOKS))
        with lease:
            yield lease.is_held

    @contextmanager
    def removing(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to remove the cache; nobody can claim a shard meanwhile.

        Gives a function that says whether the right is still held.

        Raises:
            ClaimError: A live process has a claim, or is removing it too.
            StorageError: The store cannot be reached, refuses, or does not heed conditions.
        """
        self._try_conditions()
        lease = self._take(_REMOVER, _Now(self.bucket))
        if lease is None:
            raise ClaimError(f"{self._cache} is being removed by another process")
        with lease:
            held = self.live()
            if held:
                shards = ", ".join(str(claim.shard) for claim in held[:5])
                raise ClaimError(
                    f"{self._cache} is in use: process {held[0].pid} on "
                    f"{held[0].host or 'some machine'} works on it (claimed shards: {shards}); "
                    f"stop it first, or wait {self.seconds:.0f} seconds if it was killed"
                )
            yield lease.is_held

    @property
    def _cache(self) -> str:
        return self.bucket.url.rpartition("/")[0]

    def _take(self, path: str, now: _Now) -> Lease | None:
        found = self.bucket.get(path, LARGEST_LEASE)
        if found is not None and self._is_live(found, now):
            return None
        return Lease.take(self.bucket, path, self.seconds, found)

    def _find_live(self, path: str, now: _Now) -> Terms | None:
        found = self.bucket.get(path, LARGEST_LEASE)
        return Terms.read(found.data) if found and self._is_live(found, now) else None

    def _is_live(self, found: Found, now: _Now) -> bool:
        if found.data == RELEASED:
            return False
        age = (now.get() - found.modified).total_seconds()
        return age < Terms.read(found.data).seconds + CLOCK_RESOLUTION

    def _refuse_remover(self, now: _Now) -> None:
        if self._find_live(_REMOVER, now) is not None:
            raise ClaimError(f"{self._cache} is being removed by another process")

    def _try_conditions(self) -> None:
        if self._is_tried:
            return
        # Some stores, and some proxies before them, carry out whatever they are asked to.
        twice = all(self.bucket.create(_CLOCK, b"") for _ in range(2))
        if twice or self.bucket.replace(_CLOCK, b"", _NO_VERSION):
            raise StorageError(
                f"the store of {self._cache} does not heed conditions on a put (If-None-Match, "
                "If-Match), so that two processes could write the same shard; use one that does"
            )
        self._is_tried = True


class _Now:
    """The store's time, asked for once and only where somebody's lease stands in the way."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._time: datetime | None = None

    def get(self) -> datetime:
        if self._time is None:
            self._bucket.overwrite(_CLOCK, b"")
            found = self._bucket.head(_CLOCK)
            if found is None:
                raise StorageError(f"{self._bucket.url} is being removed")
            self._time = found[1]
        return self._time


def _path(shard: int) -> str:
    return f"{shard:06d}.json"
