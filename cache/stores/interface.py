"""What the cache asks of wherever it lies: files, and the right to write them.

:mod:`cache.stores.files` and :mod:`cache.stores.claims` answer for a local directory,
:mod:`cache.stores.bucket` and :mod:`cache.stores.leases` for an object store.  Nothing above
knows which of the two it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, Self

from cache.errors import ClaimError


def always() -> bool:
    """Return True: the answer where the right to write cannot lapse."""
    return True


class Files(Protocol):
    """Files below one place, named by relative paths with forward slashes.

    Whatever a method has written is durable when it returns, and is there whole or not at all.
    Every method raises StorageError where the storage refuses, or a path leads out of the place.
    """

    def read(self, path: str, limit: int) -> bytes | None:
        """Return at most ``limit`` bytes of a file and one more if it is longer; None: no file."""

    def size(self, path: str) -> int | None:
        """Return the number of bytes of a file, or None if there is none."""

    def write(self, objects: Mapping[str, bytes], is_mine: Callable[[], bool] = always) -> None:
        """Write whole files by path, replacing what was there; if one fails, others may be written.

        ``is_mine`` says whether the caller still has the right to write these files.  Asked where
        that right can lapse, before a file with other bytes is replaced; LostClaimError: it is
        gone, or someone else is writing.
        """

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole file unless there is one; of any number of callers one gets True."""

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names of what is directly in a directory; none if there is none."""

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file, in no order."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    def discard(self, path: str) -> None:
        """Remove what killed writers have left of a file or directory, whole or in parts.

        Only for whoever alone may write it.  Where that right can lapse nothing is removed: the
        right may have passed on since, and what is there may be the successor's.  Leftovers are
        replaced there by the next write.
        """

    def clear(self, path: str) -> None:
        """Remove a directory ("" for all) and what is in it, if it is there."""


@dataclass(frozen=True)
class LiveClaim:
    """A shard that a live process is working on."""

    shard: int
    host: str  # name of the holder's machine, empty where unknown
    pid: int  # the holder's process id there, 0 where unknown


class Claim(ABC):
    """The right to write one shard, until released or until its holder is gone.

    A context manager: leaving it releases the claim, whether or not the shard was committed.
    """

    shard: int

    @abstractmethod
    def is_held_in(self, claims: Claims) -> bool:
        """Say whether this process is sure to hold the claim still, and holds it there."""

    @abstractmethod
    def release(self) -> None:
        """Give the claim back; doing so again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Claims(Protocol):
    """Who may write which shard of one cache.

    Every method raises StorageError where the storage refuses, and ClaimError where a stopped
    process is in the way.
    """

    def take_first(self, shards: Iterable[int], is_done: Callable[[int], bool]) -> Claim | None:
        """Claim the first shard that nobody alive holds and that is still to be done.

        ``is_done`` is asked again about a shard once it is held, since its last holder may have
        finished it in the meantime.  None where there is nothing to take; ClaimError where the
        cache is being removed.
        """

    def live(self) -> list[LiveClaim]:
        """Return the claims held by live processes, this one among them, by shard."""

    def creating(self) -> AbstractContextManager[Callable[[], bool]]:
        """Hold the right to create the cache, waiting for as long as a live process holds it.

        Gives a function that says whether the right is still held, as :meth:`removing` does.
        """

    def removing(self) -> AbstractContextManager[Callable[[], bool]]:
        """Hold the right to remove the cache; nobody can claim a shard meanwhile.

        ClaimError where a live process has a claim, or is removing it too.
        """


def being_removed(cache: object) -> ClaimError:
    """Return the error of who comes while another process removes the cache."""
    return ClaimError(f"{cache} is being removed by another process")


def in_use(cache: object, held: Sequence[LiveClaim], advice: str) -> ClaimError:
    """Return the error of who wants to remove a cache with live claims."""
    shards = ", ".join(str(claim.shard) for claim in held[:5])
    return ClaimError(
        f"{cache} is in use: process {held[0].pid} on {held[0].host or 'some machine'} works on "
        f"it (claimed shards: {shards}); {advice}"
    )
