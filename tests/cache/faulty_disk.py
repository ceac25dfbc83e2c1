"""The operating system as the cache sees it below one directory, with accidents on demand.

Every call that the cache makes there passes through :class:`Disk`, where one of them meets an
accident.  Syncs cost nothing: what outlives a power cut is a question to `power_cut.py`'s model.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHANGES = ("create", "write", "fsync", "link", "replace", "unlink", "mkdir", "rmdir")
LOCKING = ("open", "lock", "truncate", "pwrite")
FAULTS = {
    "refused": ("read", "stat", "list", *LOCKING, *CHANGES),
    "failed after": ("write", "fsync", "link", "replace", "unlink", "mkdir", "rmdir", "pwrite"),
    "killed": (*LOCKING, *CHANGES),
    "done twice": ("link",),
    "full after half": ("write", "pwrite"),
    "half": ("write",),
    "nothing": ("write", "link", "replace"),
    "half, killed": ("write",),
    "nothing, killed": ("write", "link", "replace"),
}
"""What can happen, and to which calls; "half" and "nothing" are lies, reported as success."""

_PATCHED = {"stat": "stat", "lstat": "stat", "listdir": "list", "scandir": "list"}
_PATCHED |= {"ftruncate": "truncate", "pwrite": "pwrite", "open": "open"}
_PATCHED |= {name: name for name in ("mkdir", "rmdir", "unlink", "link", "replace", "fsync")}


Call = Callable[[], Any]


class Death(BaseException):
    """A kill: whatever the process still tries to do to the disk does not happen."""


class Disk:
    """The calls below one directory; the ``at``-th, counted from 0, meets the ``fault``.

    Attributes:
        log: Kind and path of every call, the path relative to the directory.
        listener: Told every call that has happened: kind, path, and second path or data.
        leaked: What a process that was not killed left open, locks above all.
    """

    def __init__(self, root: Path, at: int = -1, fault: str = "") -> None:
        self.log: list[tuple[str, str]] = []
        self.listener: Callable[[str, str, Any], None] = lambda kind, path, more: None
        self.leaked: list[str] = []
        self._root = str(root.resolve())
        self._at, self._fault = at, fault
        self._dead = False
        self._open: set[int] = set()
        self._real_close = os.close

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Run a process; if it is killed, its locks are dropped and nothing is raised."""
        with pytest.MonkeyPatch.context() as patch:
            for name, kind in _PATCHED.items():
                patch.setattr(os, name, self._between(kind, getattr(os, name)))
            patch.setattr(os, "close", self._close)
            patch.setattr(io, "open", self._opener(io.open))
            patch.setattr(fcntl, "flock", self._between("lock", fcntl.flock))
            try:
                yield
            except Death:
                self._dead = True
            finally:
                if not self._dead:
                    self.leaked = [_path_of(file) for file in self._open]
                for file in self._open:
                    self._real_close(file)

    def call(
        self, kind: str, path: str, real: Call, half: Call = lambda: None, more: Any = None
    ) -> Any:
        """Do what was asked for, unless this is the call that meets the fault."""
        if self._dead:
            raise Death
        self.log.append((kind, path))
        if len(self.log) - 1 != self._at:
            result = real()
            self.listener(kind, path, more)
            return result
        what, _, then = self._fault.partition(", ")
        self._dead = "killed" in (what, then)
        if what == "killed":
            raise Death
        if what in ("failed after", "done twice"):
            real()
        elif "half" in what:
            half()
        if what == "done twice":
            # A network lost the first answer and asked again.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if what in ("refused", "failed after"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if what == "full after half":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return None

    def _inside(self, path: Any, directory: int | None = None) -> str | None:
        text = _path_of(path) if isinstance(path, int) else os.fspath(path)
        text = text if directory is None else f"{_path_of(directory)}/{text}"
        inside = f"{text}/".startswith(f"{self._root}/")
        return text[len(self._root) + 1 :] or "." if inside else None

    def _between(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any = ".", *rest: Any, **options: Any) -> Any:
            path = self._inside(first, options.get("dir_fd"))
            if kind == "fsync" and path is None:
                return None
            if path is None or (kind == "lock" and rest[0] == fcntl.LOCK_UN):
                return real(first, *rest, **options)
            result = self.call(
                kind,
                path,
                lambda: None if kind == "fsync" else real(first, *rest, **options),
                lambda: real(first, rest[0][: len(rest[0]) // 2], *rest[1:]),
                self._inside(rest[0]) if kind in ("link", "replace") else None,
            )
            if kind == "open":
                self._open.add(result)
            return result

        return call

    def _close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        self._real_close(descriptor)

    def _opener(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            path = self._inside(file)
            if path is None:
                return real(file, mode, *rest, **options)
            if mode == "rb":
                return self.call("read", path, lambda: real(file, mode, *rest, **options))
            # Unbuffered, so that what a killed process had not written yet is not written later.
            return _File(self, path, self.call("create", path, lambda: real(file, mode, 0)))

        return opened


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class _File:
    def __init__(self, disk: Disk, path: str, file: Any) -> None:
        self._disk, self._path, self._file = disk, path, file

    def write(self, data: bytes) -> None:
        self._disk.call(
            "write",
            self._path,
            lambda: self._file.write(data),
            lambda: self._file.write(data[: len(data) // 2]),
            data,
        )

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return int(self._file.fileno())

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
