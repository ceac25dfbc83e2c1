"""Saying exactly which model it is: SHA-256 of its files, remembered from run to run.

A remembered hash is used as long as the file's size, times, inode and device are those that it was
hashed with.  The inode's own time (ctime) is among them, since nobody can set it back: a file that
was written again and given its old size and mtime is noticed.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from cache.errors import StorageError
from cache.format import DocumentError, check_seal, parse, seal
from cache.stores import LocalFiles
from stages.errors import ModelError
from stages.reporter import Reporter

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)

FOLDER, MEMORY, VERSION = "functional-projection", "weights.json", 2
LARGEST_MEMORY = 8 * 2**20

REMEMBERED_BYTES = 16 * 2**20
"""Smaller files are read in milliseconds, and leave no trace in the user's directory."""

SETTLED_NS = 5 * 10**9
"""A file changed less than this before it was hashed may change again without its times showing
it, since clocks of file systems are coarse (2 s at worst); its hash is not remembered."""

LARGE = 10**9
MEBIBYTE = 2**20


def describe_identity(folder: Path, reporter: Reporter) -> dict[str, str]:
    """Return SHA-256 of a model's weights, its configuration and its tokenizer files, or its GGUF.

    Large files that are as they were need no reading.  Raises ModelError where one cannot be read,
    or is being written.
    """
    if folder.is_file():
        return {"gguf": hash_files([folder], reporter)[0]}
    parts = {
        # Makers' own copies of the weights, which are not read, do not make it another model.
        "weights": sorted({*folder.glob("*.safetensors")} - {*folder.glob("consolidated*")}),
        "config": [folder / "config.json"],
        "tokenizer": [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()],
    }
    identity = {}
    for part, paths in parts.items():
        lines = zip(paths, hash_files(paths, reporter), strict=True)
        known = "".join(f"{path.name}:{digest}\n" for path, digest in lines)
        identity[part] = hashlib.sha256(known.encode()).hexdigest()
    return identity


def hash_files(paths: Sequence[Path], reporter: Reporter) -> list[str]:
    """Return the SHA-256 of each file in hexadecimal, from memory where it is known to hold.

    A memory that cannot be used costs the time of hashing and a warning, never the run.
    """
    states = {path: _read_state(path) for path in paths}
    large = {path: os.path.realpath(path) for path in paths if states[path][0] >= REMEMBERED_BYTES}
    known: dict[str, list[Any]] = {}
    if large:
        with _doing_without(reporter, "hashing the weights anew, remembered hashes are not usable"):
            known = _read_memory(_open_memory())
    entries = {path: known.get(name, [""]) for path, name in large.items()}
    hashes = {path: each[0] for path, each in entries.items() if each[1:] == states[path]}
    unknown = [path for path in paths if path not in hashes]
    latest = time.time_ns() - SETTLED_NS
    settled = [path for path in unknown if max(states[path][1:3]) < latest]
    total = sum(states[path][0] for path in unknown)
    track: AbstractContextManager[Callable[[int], None]] = nullcontext(lambda count: None)
    if total >= LARGE:
        then = "remembered from then on" if settled == unknown else "not remembered: just written"
        reporter.say(f"hashing the weights ({total / 1e9:.1f} GB), {then}")
        track = reporter.track("weights", total // MEBIBYTE, 0, "mebibyte")
    # Threads, since reading and hashing a block both let go of the interpreter's lock.
    with track as advance, ThreadPoolExecutor(4) as pool:
        hash_one = partial(_hash_file, reporter=reporter, advance=advance)
        digests = pool.map(hash_one, unknown, [states[path] for path in unknown])
        hashes.update(zip(unknown, digests, strict=True))
    # A new owner, mode or link changes no byte, but leaves no state to remember.
    kept = [path for path in settled if path in large and _read_state(path) == states[path]]
    if kept:
        with _doing_without(reporter, "the next start hashes the weights again, not remembered"):
            memory = _open_memory()
            with suppress(StorageError, DocumentError):  # said when it was first read
                known = _read_memory(memory)  # again, since others may have written meanwhile
            known |= {large[path]: [hashes[path], *states[path]] for path in kept}
            files = {path: entry for path, entry in known.items() if Path(path).exists()}
            # Of two writers at once the last one wins.
            memory.write({MEMORY: seal({"version": VERSION, "files": files})})
    return [hashes[path] for path in paths]


def _read_state(path: Path) -> list[int]:
    """Return what tells a file from what it may become, its size first, then its times."""
    try:
        found = path.stat()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _hash_file(
    path: Path, state: list[int], reporter: Reporter, advance: Callable[[int], None]
) -> str:
    digest = hashlib.sha256()
    try:
        # Not hashlib.file_digest, which cannot be stopped nor show how far it is.
        with path.open("rb") as file:
            while block := file.read(MEBIBYTE):
                reporter.check_stop()
                digest.update(block)
                advance(1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if _read_state(path)[:2] != state[:2]:
        raise ModelError(f"{path} was written while it was hashed; wait until it is complete")
    return digest.hexdigest()


@contextmanager
def _doing_without(reporter: Reporter, consequence: str) -> Iterator[None]:
    """Turn what is wrong with the memory into a warning."""
    try:
        yield
    # No home directory is a RuntimeError, and names of files need not be UTF-8.
    except (StorageError, DocumentError, RuntimeError, UnicodeEncodeError) as error:
        place = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/{FOLDER}/{MEMORY}"
        reporter.warn(f"{consequence} ({place}: {error}); XDG_CACHE_HOME says where they lie")


def _open_memory() -> LocalFiles:
    # Which has to be absolute, by its specification.
    given = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
    return LocalFiles((given if given.is_absolute() else Path.home() / ".cache") / FOLDER)


def _read_memory(memory: LocalFiles) -> dict[str, list[Any]]:
    """Return hash and state by real path."""
    data = memory.read(MEMORY, LARGEST_MEMORY)
    if data is None:
        return {}
    document = check_seal(parse(data, LARGEST_MEMORY), data)
    if document.get("version") != VERSION:
        raise DocumentError("of another version")
    files: dict[str, list[Any]] = document["files"]
    return files
