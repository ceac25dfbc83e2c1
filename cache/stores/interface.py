"""What the cache asks of wherever it lies: files, and the right to write them.

:mod:`cache.stores.files` and :mod:`cache.stores.claims` answer for a local directory,
:mod:`cache.stores.objects` and :mod:`cache.stores.leases` for an object store.  Nothing above knows which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol


def always() -> bool:
    """Return True: the answer where the right to write cannot lapse."""
    return True


class Files(Protocol):
    """Files below one place, named by relative paths with forward slashes.

    Whatever a method has written is durable when it returns, and is there whole or not at all.
    Every method raises StorageError where the storage refuses.
    """

    def read(self, path: str, limit: int) -> bytes | None:
        """Return at most ``limit`` + 1 bytes of a file, None if there is none."""

    def size(self, path: str) -> int | None:
        """Return the number of bytes of a file, None if there is none."""

    def write(self, objects: Mapping[str, bytes], is_mine: Callable[[], bool] = always) -> None:
        """Write whole files, replacing what was there.

        Args:
            objects: Contents by path.
            is_mine: Whether the caller still has the right to write these files.  Asked where
                that right can lapse, before anything is replaced.

        Raises:
            LostClaimError: Something else is there, and the right to replace it has gone.
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

        Only for who alone may write it.  Where that right can lapse nothing is removed: the
        right may have passed on since, and what is there may be the successor's.  Leftovers are
        replaced there by the next write.
        """

    def clear(self, path: str) -> None:
        """Remove a directory ("" for all) and what is in it, if it is there."""


@dataclass(frozen=True)
class LiveClaim:
    """A shard that a live process is working on.

    Attributes:
        shard: Its number.
        host: Name of the holder's machine, empty where unknown.
        pid: The holder's process id there, 0 where unknown.
    """

    shard: int
    host: str
    pid: int


class Claim(Protocol):
    """The right to write one shard, until released or until its holder is gone.

    A context manager: leaving it releases the claim, whether or not the shard was committed.
    """

    @property
    def shard(self) -> int:
        """Number of the shard."""

    def is_held_in(self, claims: Claims) -> bool:
        """Say whether this process still holds the claim, and holds it there."""

    def release(self) -> None:
        """Give the claim back; doing so again does nothing."""

    def __enter__(self) -> Claim: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Claims(Protocol):
    """Who may write which shard of one cache."""

    def take_first(self, shards: Iterable[int], is_done: Callable[[int], bool]) -> Claim | None:
        """Claim the first shard that nobody alive holds and that is still to be done.

        Args:
            shards: Candidates in order.
            is_done: Asked again about a shard once it is held, since its last holder may have
                finished it in the meantime.

        Returns:
            The claim, or None where there is nothing to take.

        Raises:
            ClaimError: The cache is being removed, or a stopped process is in the way.
            StorageError: The storage refuses.
        """

    def live(self) -> list[LiveClaim]:
        """Return the claims held by live processes, this one among them, by shard."""

    def creating(self) -> AbstractContextManager[Callable[[], bool]]:
        """Hold the right to create the cache, waiting for as long as a live process holds it.

        Gives a function that says whether the right is still held.
        """

    def removing(self) -> AbstractContextManager[Callable[[], bool]]:
        """Hold the right to remove the cache; nobody can claim a shard meanwhile.

        Gives a function that says whether the right is still held.

        Raises:
            ClaimError: A live process has a claim, or is removing it too.
        """
