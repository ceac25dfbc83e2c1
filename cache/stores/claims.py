"""Who may write which shard: a lock per shard that the kernel drops when its holder dies.

An orphan of a killed ``dvc repro`` or ``torchrun`` keeps its claims as long as it lives, and its
successor works around it; a dead worker's are free at once.  A forked child shares its parent's
locks, and keeps them if it outlives it.  Nothing here is data: without a running worker the
directory can be emptied.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import ClaimError, StorageError
from cache.stores.files import reporting
from cache.stores.interface import Claim, Claims, LiveClaim, always, being_removed, in_use

# The guard is held for milliseconds; whoever waits so long waits for a stopped process.
GUARD_SECONDS = 30.0
REMOVER = "remover.lock"
_LOCK = re.compile(r"([0-9]{6,})\.lock")


class LocalClaim(Claim):
    """A locked file, see :class:`cache.stores.interface.Claim`; the lock ends with the process."""

    def __init__(self, claims: LocalClaims, shard: int, path: Path, descriptor: int) -> None:
        self.shard = shard
        self._claims = claims
        self._path = path
        self._descriptor = descriptor
        self._pid = os.getpid()

    def is_held_in(self, claims: Claims) -> bool:
        """Say whether this process still holds the claim, in this directory of claims."""
        if self._descriptor < 0 or self._pid != os.getpid():
            return False
        if not isinstance(claims, LocalClaims) or claims.directory != self._claims.directory:
            return False
        with reporting("look at", self._path):
            return _is_at(self._descriptor, self._path)

    def release(self) -> None:
        """Give the claim back; doing so again does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        # A forked child has the parent's lock, which is not its own to give back.
        if descriptor >= 0 and self._pid == os.getpid():
            self._claims.release(self._path, descriptor)


class LocalClaims:
    """The locks in one directory, one file each; see :class:`cache.stores.interface.Claims`.

    Lock files are opened, locked, tested and removed under one more lock, the guard, so that
    asking whether a claim is live never gets in the way of someone who wants to take it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def take_first(
        self, shards: Iterable[int], is_done: Callable[[int], bool]
    ) -> LocalClaim | None:
        """Claim the first shard that no live process holds and that is still to be done."""
        self._make()
        with self._guard():
            if (held := _try_lock(self.directory / REMOVER)) is None:
                raise being_removed(self.directory.parent)
            _drop(self.directory / REMOVER, held)
            for shard in shards:
                path = self.directory / f"{shard:06d}.lock"
                descriptor = _try_lock(path)
                if descriptor is None:
                    continue
                try:
                    if not is_done(shard):
                        holder = {"host": socket.gethostname(), "pid": os.getpid()}
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
                        return LocalClaim(self, shard, path, descriptor)
                except BaseException:
                    # Or this process would keep everyone from the shard, itself included.
                    _drop(path, descriptor)
                    raise
                _drop(path, descriptor)
        return None

    def live(self) -> list[LiveClaim]:
        """Return the claims held by live processes, this one among them, by shard."""
        with reporting("look at", self.directory):
            if not self.directory.is_dir():
                return []
        with self._guard():
            return self._find_live()

    @contextmanager
    def creating(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to create the cache, waiting for as long as a live process holds it."""
        self._make()
        descriptor = self._wait("creator.lock", None)
        with _unlocking(descriptor):
            yield always

    @contextmanager
    def removing(self) -> Iterator[Callable[[], bool]]:
        """Hold the right to remove the cache; nobody can claim a shard meanwhile."""
        self._make()
        with self._guard():
            held = self._find_live()
            descriptor = None if held else _try_lock(self.directory / REMOVER)
        if held:
            raise in_use(self.directory.parent, held, "stop it first")
        if descriptor is None:
            raise being_removed(self.directory.parent)
        with _unlocking(descriptor):
            yield always

    def release(self, path: Path, descriptor: int) -> None:
        """Let go of a lock; called by the claim that holds it."""
        # Should one of them fail, the file stays; without the lock it claims nothing.
        with suppress(ClaimError, StorageError), _unlocking(descriptor), self._guard():
            _remove(path, descriptor)

    def _find_live(self) -> list[LiveClaim]:
        found = []
        for path in sorted(self.directory.iterdir()):
            match = _LOCK.fullmatch(path.name)
            if match is None:
                continue
            descriptor = _try_lock(path)
            if descriptor is None:
                host, pid = _holder(path)
                found.append(LiveClaim(int(match[1]), host, pid))
            else:
                _drop(path, descriptor)
        return found

    def _make(self) -> None:
        with reporting("make", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        descriptor = self._wait("guard.lock", GUARD_SECONDS)
        with _unlocking(descriptor), reporting("use", self.directory):
            yield

    def _wait(self, name: str, seconds: float | None) -> int:
        start, pause = time.monotonic(), 0.0005
        with reporting("lock in", self.directory):
            while (descriptor := _try_lock(self.directory / name)) is None:
                if seconds is not None and time.monotonic() - start > seconds:
                    raise ClaimError(
                        f"a process has held {self.directory / name} for {seconds:.0f} seconds; "
                        "find and end it (`fuser` names it)"
                    )
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        return descriptor


def _try_lock(path: Path) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Of a file that was removed between open and lock, the lock shuts nobody out.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        os.close(descriptor)


def _drop(path: Path, descriptor: int) -> None:
    with _unlocking(descriptor):
        _remove(path, descriptor)


def _remove(path: Path, descriptor: int) -> None:
    # Removed while locked and under the guard: nobody else can have this very file open.
    if _is_at(descriptor, path):
        path.unlink(missing_ok=True)


@contextmanager
def _unlocking(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        # Said explicitly: closing alone would leave the lock with any child forked meanwhile.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> tuple[str, int]:
    try:
        data = json.loads(path.read_bytes()[:1000])
        host, pid = data["host"], data["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0
    return (host, pid) if type(host) is str and type(pid) is int else ("", 0)
