"""SHA-256 of a model's files, remembered so that gigabytes are not read again at every start.

A remembered hash holds for as long as the file's size, times, inode and device are those that it
was hashed with.  The inode's own time (ctime) is among them, since nobody can set it back: a file
that was written again and given its old size and mtime is noticed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from cache.errors import StorageError
from cache.format import (
    DocumentError,
    check_keys,
    check_seal,
    integer,
    mapping,
    parse,
    seal,
    text,
)
from cache.stores import LocalFiles
from stages.errors import ModelError

if TYPE_CHECKING:
    from stages.reporter import Reporter

FOLDER = "functional-projection"
MEMORY = "weights.json"
VERSION = 1
REMEMBERED_BYTES = 16 * 2**20
"""Smaller files are read in milliseconds, and leave no trace in the user's directory."""

MOST_ENTRIES = 1000
LARGEST_MEMORY = 8 * 2**20

SETTLED_NS = 5 * 10**9
"""A file changed less than this before it was hashed may change again without its times showing
it, since clocks of file systems are coarse (2 s at worst); its hash is not remembered."""

LARGE = 10**9
BLOCK = 2**20
MOST_THREADS = 4
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class FileState:
    """What tells a file from what it may become.

    Attributes:
        size: Number of bytes.
        mtime_ns: When its contents were last written, as anybody may set it.
        ctime_ns: When anything of it was last changed, as the kernel says.
        inode: Its number in its file system.
        device: The file system.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @staticmethod
    def of(found: os.stat_result) -> FileState:
        """Return the state in a stat result."""
        return FileState(
            found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev
        )


@dataclass(frozen=True)
class KnownHash:
    """A file's hash and the state in which it had it."""

    state: FileState
    sha256: str


class MemoryFaultError(Exception):
    """The memory of hashes cannot be used; says where it is and why not."""


class HashMemory:
    """A file of hashes by real path, shared by all processes of a user.

    It is replaced as a whole; of two processes that write at once the last one wins, and the
    other's files are hashed once more.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / MEMORY
        self._files = LocalFiles(folder)

    @staticmethod
    def of_user() -> HashMemory:
        """Return the memory below the user's cache directory.

        Raises:
            MemoryFaultError: The user has no home directory.
        """
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if given.is_absolute():  # the specification has others ignored
            return HashMemory(given / FOLDER)
        try:
            return HashMemory(Path.home() / ".cache" / FOLDER)
        except RuntimeError as error:
            raise MemoryFaultError("no home directory; set XDG_CACHE_HOME") from error

    def recall(self) -> dict[str, KnownHash]:
        """Return what is remembered; nothing where there is no memory yet.

        Raises:
            MemoryFaultError: It cannot be read, is damaged, or is of another version.
        """
        try:
            data = self._files.read(MEMORY, LARGEST_MEMORY)
            return {} if data is None else _parse_memory(data)
        except (StorageError, DocumentError) as error:
            raise MemoryFaultError(f"{self._path}: {error}") from error

    def remember(self, known: Mapping[str, KnownHash]) -> None:
        """Write a memory; files that are gone are forgotten, and the first where they are many.

        Raises:
            MemoryFaultError: It cannot be written.
        """
        present = [path for path in known if Path(path).exists()][-MOST_ENTRIES:]
        files = {
            path: {**vars(known[path].state), "sha256": known[path].sha256} for path in present
        }
        try:
            self._files.write({MEMORY: seal({"version": VERSION, "files": files})})
        except (StorageError, UnicodeEncodeError) as error:  # names of files need not be UTF-8
            raise MemoryFaultError(f"{self._path}: {error}") from error


def hash_files(paths: Sequence[Path], reporter: Reporter) -> list[str]:
    """Return the SHA-256 of each file in hexadecimal, from memory where it is known to hold.

    A memory that cannot be used costs the time of hashing and a warning, never the run.

    Args:
        paths: The files.
        reporter: Told what takes long and what is wrong with the memory.

    Raises:
        ModelError: A file cannot be read, or is being written.
        Interrupted: A stop was asked for.
    """
    states = {path: _look_at(path) for path in paths}
    names = {path: os.path.realpath(path) for path in paths}
    large = {path for path in paths if states[path].size >= REMEMBERED_BYTES}
    known = _recall(reporter) if large else {}
    hashes = {
        path: known[names[path]].sha256
        for path in large
        if names[path] in known and known[names[path]].state == states[path]
    }
    unknown = {path: states[path] for path in paths if path not in hashes}
    now = time.time_ns()
    _announce(unknown, now, reporter)
    fresh = {}
    for path, (state, digest) in _hash_all(unknown, reporter).items():
        hashes[path] = digest
        if path in large and state is not None and _is_settled(state, now):
            fresh[names[path]] = KnownHash(state, digest)
    if fresh:
        _remember(fresh, reporter)
    return [hashes[path] for path in paths]


def _look_at(path: Path) -> FileState:
    try:
        return FileState.of(path.stat())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def _announce(unknown: Mapping[Path, FileState], now: int, reporter: Reporter) -> None:
    total = sum(state.size for state in unknown.values())
    if total < LARGE:
        return
    settled = all(_is_settled(state, now) for state in unknown.values())
    then = "remembered from then on" if settled else "not remembered: written only moments ago"
    reporter.say(f"hashing the weights ({total / 1e9:.1f} GB), {then}")


def _recall(reporter: Reporter) -> dict[str, KnownHash]:
    try:
        return HashMemory.of_user().recall()
    except MemoryFaultError as fault:
        reporter.warn(f"hashing the weights anew, their remembered hashes are not usable ({fault})")
        return {}


def _remember(fresh: Mapping[str, KnownHash], reporter: Reporter) -> None:
    try:
        memory = HashMemory.of_user()
        try:
            # Once more, since others may have written while this process hashed.
            known = memory.recall()
        except MemoryFaultError:
            known = {}  # said when it was first read, and replaced now
        kept = {path: item for path, item in known.items() if path not in fresh}
        memory.remember({**kept, **fresh})
    except MemoryFaultError as fault:
        reporter.warn(f"the next start hashes the weights again, remembering failed ({fault})")


def _is_settled(state: FileState, now: int) -> bool:
    return max(state.mtime_ns, state.ctime_ns) < now - SETTLED_NS


def _hash_all(
    files: Mapping[Path, FileState], reporter: Reporter
) -> dict[Path, tuple[FileState | None, str]]:
    if not files:
        return {}
    stop, counts = Event(), [0] * len(files)
    total = sum(state.size for state in files.values())
    threads = min(MOST_THREADS, len(files), len(os.sched_getaffinity(0)))
    shown = 0
    shows = total >= LARGE
    track = reporter.track("weights", total // BLOCK, 0, "mebibyte") if shows else nullcontext()
    with track as advance, ThreadPoolExecutor(threads) as pool:
        # Threads, since reading and hashing a block both let go of the interpreter's lock.
        futures = [pool.submit(_hash_file, path, counts, i, stop) for i, path in enumerate(files)]
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, POLL_SECONDS)
                for future in done:
                    future.result()
                read = sum(counts) // BLOCK
                if advance is not None and read > shown:
                    advance(read - shown)
                    shown = read
                reporter.check_stop()
        except BaseException:
            stop.set()
            raise
    return {path: future.result() for path, future in zip(files, futures, strict=True)}


def _hash_file(
    path: Path, counts: list[int], place: int, stop: Event
) -> tuple[FileState | None, str]:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    try:
        with path.open("rb", buffering=0) as file:
            before = FileState.of(os.fstat(file.fileno()))
            while (count := file.readinto(buffer)) and not stop.is_set():
                digest.update(buffer[:count])
                counts[place] += count
            after = FileState.of(os.fstat(file.fileno()))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if (before.size, before.mtime_ns) != (after.size, after.mtime_ns):
        raise ModelError(f"{path} was written while it was hashed; wait until it is complete")
    # A new owner, mode or link changes no byte, but leaves no state to remember.
    return (before if before == after else None), digest.hexdigest()


def _parse_memory(data: bytes) -> dict[str, KnownHash]:
    document = parse(data, LARGEST_MEMORY)
    check_keys(document, ("version", "files", "checksum"), "memory")
    integer(document["version"], "version", VERSION, VERSION)
    check_seal(document, data)
    files = mapping(document["files"], "files")
    return {path: _read_entry(item, f"file {path!r:.200}") for path, item in files.items()}


def _read_entry(document: object, where: str) -> KnownHash:
    data = mapping(document, where)
    numbers = [field.name for field in fields(FileState)]
    check_keys(data, (*numbers, "sha256"), where)
    state = FileState(
        *(integer(data[name], f"{where}: {name}", -(2**63), 2**64) for name in numbers)
    )
    return KnownHash(state, text(data["sha256"], f"{where}: sha256", 64))
