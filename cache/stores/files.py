"""Every operation on storage that the cache knows, on a local directory.

Nothing else touches the cache's files but claims, which are locks and not data, so an object store
stands in by the same few methods: those of :class:`cache.stores.interface.Files`.
"""

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from cache.errors import StorageError
from cache.stores.interface import always

TEMPORARY = "tmp"
"""Where files grow before they are moved into place: readers see whole files or none."""

_PARTIAL = re.compile(r"[0-9a-f]{32}\.partial")


class LocalFiles:
    """Files below one directory; see :class:`cache.stores.interface.Files`.

    Whatever a method has written is on the disk when it returns: the file is synced before it gets
    its name, the directories that hold the name after.  The directory need not exist before.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Directories whose own names this object has synced: each is needed once, not per file.
        self._durable: set[Path] = set()

    def read(self, path: str, limit: int) -> bytes | None:
        """Return at most ``limit`` + 1 bytes of a file, or None if there is none."""
        with reporting("read", path):
            target = self._resolve(path)
            if not target.is_file() and target.exists() and not target.is_dir():
                # A pipe would be waited for, and a device has no end.
                raise OSError(errno.ENXIO, "neither a file nor a directory")
            try:
                with target.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    return file.read(min(limit, size) + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def size(self, path: str) -> int | None:
        """Return the number of bytes of a file, or None if there is none, or a directory."""
        with reporting("read", path):
            try:
                found = self._resolve(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return None if stat.S_ISDIR(found.st_mode) else found.st_size

    def write(self, objects: Mapping[str, bytes], is_mine: Callable[[], bool] = always) -> None:
        """Write whole files, replacing what was there; the locks that allow it do not lapse."""
        for path, data in objects.items():
            target = self._resolve(path)
            with self._temporary(path, data) as temporary, reporting("write", path):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(target)
        self._sync_names(objects)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole file unless there is one of that name already."""
        target = self._resolve(path)
        with self._temporary(path, data) as temporary, reporting("write", path):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Unlike a rename, a link fails where the name is taken.
                os.link(temporary, target)
                won = True
            except FileExistsError:
                # Where a network lost the first answer, the repeated call finds its own link.
                won = temporary.stat().st_nlink > 1
        # The loser too: what it does next may rest on the winner's file, whose name the winner
        # may not have got onto the disk yet.
        self._sync_names([path])
        return won

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names of what is directly in a directory; none if there is none."""
        with reporting("list", path):
            try:
                # Not through Path, which would build one for each of many thousand records.
                with os.scandir(self._resolve(path)) as entries:
                    return sorted(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def remove(self, path: str) -> None:
        """Remove a file, if it is there; it stays removed if the power fails."""
        with reporting("remove", path):
            target = self._resolve(path)
            try:
                target.unlink()
            except FileNotFoundError:
                return
            sync(target.parent)

    def discard(self, path: str) -> None:
        """Remove what killed writers have left of a file or directory, whole or in parts."""
        stem = _flat(path)
        for name in self.names(TEMPORARY):
            if name.startswith(stem) and _PARTIAL.fullmatch(name, len(stem)):
                self.remove(f"{TEMPORARY}/{name}")
        with reporting("remove", path):
            target = self._resolve(path)
            is_directory = target.is_dir() and not target.is_symlink()
        (self.clear if is_directory else self.remove)(path)

    def clear(self, path: str) -> None:
        """Remove a directory and all that is in it, if it is there; it stays removed likewise."""
        self._durable.clear()
        with reporting("remove", path):
            target = self._resolve(path)
            try:
                shutil.rmtree(target)
            except FileNotFoundError:
                if os.path.lexists(target):  # something in it went meanwhile, the rest is there
                    raise
                return
            sync(target.parent)

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file, in no order."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # or removed since it was listed
                raise error

        with reporting("list", str(self.root)):
            for directory, _, names in os.walk(self.root, onerror=refuse):
                for name in names:
                    path = Path(directory) / name
                    with suppress(FileNotFoundError):
                        yield path.relative_to(self.root).as_posix(), path.lstat().st_size

    def _resolve(self, path: str) -> Path:
        return self.root / check_path(path)

    @contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[Path]:
        temporary = self.root / TEMPORARY / f"{_flat(path)}{uuid.uuid4().hex}.partial"
        try:
            with reporting("write", path):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    if os.fstat(file.fileno()).st_size != len(data):
                        raise StorageError(f"cannot write {path}: the file came out short")
            yield temporary
        finally:
            with suppress(OSError):  # left behind at worst, to be swept
                temporary.unlink(missing_ok=True)

    def _sync_names(self, paths: Mapping[str, bytes] | list[str]) -> None:
        with reporting("sync", str(self.root)):
            parents = {self._resolve(path).parent for path in paths}
            for directory in sorted(parents, key=str):
                sync(directory)
                self._durable_name(directory)

    def _durable_name(self, directory: Path) -> None:
        # A directory's own name must be as durable as what is in it, up to the root's; someone
        # else may have made it and been killed before syncing, so being there proves nothing.
        if directory in self._durable:
            return
        sync(directory.parent)
        if directory != self.root:
            self._durable_name(directory.parent)
        self._durable.add(directory)


def check_path(path: str) -> str:
    """Return a relative path, tidied; StorageError where it leads out of the place."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise StorageError(f"the path {path!r:.80} leads out of the cache")
    return str(parts)


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, and make their names durable."""
    with reporting("make the directory", str(path)):
        path.mkdir(parents=True, exist_ok=True)
        # The names of parents that were there too: whoever made them may have been killed before
        # syncing.  Where nothing can be made from here, nothing was.
        for parent in path.absolute().parents:
            if not os.access(parent, os.R_OK | os.W_OK):
                break
            sync(parent)
            if parent.is_mount():
                break


def _flat(path: str) -> str:
    return path.replace("/", ".") + "."


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reporting(action: str, path: str | Path) -> Iterator[None]:
    """Raise StorageError in place of what the operating system says of an action on a path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise StorageError(f"cannot {action} {path}: there is not memory enough for it") from error
