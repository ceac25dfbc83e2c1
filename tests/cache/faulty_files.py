"""Object stores whose objects fail, or whose user is killed, at a chosen call."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from faulty_disk import Death
from obstore.store import MemoryStore

from cache.errors import StorageError
from cache.stores.bucket import Bucket
from cache.stores.interface import Claims, Files
from cache.stores.leases import LeasedClaims
from cache.stores.places import CLAIMS, LocalPlace, ObjectPlace, Place

_CHANGING = ("write", "put_if_absent", "remove", "clear", "discard")
FAULTS = {
    "refused before": (*_CHANGING, "read", "size", "names", "walk"),
    "refused after": _CHANGING,
    "refused half way": ("write",),
    "killed before": _CHANGING,
    "killed after": _CHANGING,
    "killed half way": ("write",),
}
"""What can happen, and at which calls."""


@dataclass
class Fuse:
    """Blows at the ``at``-th call from now, counted from 0.

    Attributes:
        calls: Names of the calls so far.
        dead: Whether the process was killed, after which nothing that it asks for happens.
    """

    at: int = -1
    fault: str = ""
    calls: list[str] = field(default_factory=list)
    dead: bool = False

    def arm(self, at: int = -1, fault: str = "") -> None:
        """Start counting anew, by default towards nothing."""
        self.calls.clear()
        self.at, self.fault = at, fault

    def call(self, name: str, real: Callable[[], Any], half: Callable[[], Any]) -> Any:
        if self.dead:
            raise Death
        self.calls.append(name)
        if len(self.calls) - 1 != self.at:
            return real()
        what, _, when = self.fault.partition(" ")
        if when == "after":
            real()
        elif when == "half way":
            half()
        if what == "killed":
            self.dead = True
            raise Death
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise StorageError(f"cannot {name}: {full.strerror}") from full


class FaultyFiles:
    """Files behind a fuse; a write can also fail between two of its files."""

    def __init__(self, files: Files, fuse: Fuse) -> None:
        self._files, self._fuse = files, fuse

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._files, name)

        def call(*arguments: Any, **options: Any) -> Any:
            def real() -> Any:
                result = method(*arguments, **options)
                return list(result) if name == "walk" else result

            def half() -> None:
                if name == "write":
                    objects, *rest = arguments
                    method(dict(islice(objects.items(), len(objects) // 2)), *rest)

            return self._fuse.call(name, real, half)

        return call


@dataclass(frozen=True)
class MemoryPlace(ObjectPlace):
    """An object store in memory, one for every prefix, behind a fuse."""

    fuse: Fuse = field(default_factory=Fuse)
    stores: dict[str, MemoryStore] = field(default_factory=dict)

    def __truediv__(self, name: str) -> MemoryPlace:
        return MemoryPlace(f"{self.url}/{name}", self.fuse, self.stores)

    def list_places(self) -> list[ObjectPlace]:
        urls = [url for url in self.stores if url.startswith(f"{self.url}/")]
        names = {url.removeprefix(f"{self.url}/").partition("/")[0] for url in urls}
        return [self / name for name in sorted(names)]

    def open_files(self) -> Files:
        return FaultyFiles(self._bucket(self.url), self.fuse)  # type: ignore[return-value]

    def open_claims(self) -> Claims:
        return LeasedClaims(self._bucket(f"{self.url}/{CLAIMS}"))

    def _bucket(self, url: str) -> Bucket:
        return Bucket(url, lambda seconds: self.stores.setdefault(url, MemoryStore()))


def behind(root: MemoryPlace, fuse: Fuse) -> MemoryPlace:
    """Return the same place as another process sees it, behind another fuse."""
    return MemoryPlace(root.url, fuse, root.stores)


def new_place(kind: str, path: Path) -> Place:
    """Return an empty place: a directory, or an object store in memory."""
    return LocalPlace(path) if kind == "directory" else MemoryPlace(f"s3://bucket/{path.name}")
