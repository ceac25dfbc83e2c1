"""Saying exactly which model it is: SHA-256 of its files."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

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

LARGE = 10**9
"""Bytes from which hashing takes long enough to be shown."""

MEBIBYTE = 2**20


def describe_identity(folder: Path, reporter: Reporter) -> dict[str, str]:
    """Return SHA-256 of a model's weights, its configuration and its tokenizer files, or its GGUF.

    Raises ModelError where one cannot be read, or is being written.
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
    """Return the SHA-256 of each file; ModelError: one cannot be read, or is being written."""
    states = [_read_state(path) for path in paths]
    total = sum(size for size, _ in states)
    track: AbstractContextManager[Callable[[int], None]] = nullcontext(lambda count: None)
    if total >= LARGE:
        track = reporter.track("hashing the weights", total // MEBIBYTE, 0, "mebibyte")
    # Threads, since reading and hashing a block both let go of the interpreter's lock.
    with track as advance, ThreadPoolExecutor(4) as pool:
        hash_one = partial(_hash_file, reporter=reporter, advance=advance)
        return list(pool.map(hash_one, paths, states))


def _read_state(path: Path) -> tuple[int, int]:
    """Return the size of a file and when it was last written."""
    try:
        found = path.stat()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns


def _hash_file(
    path: Path, state: tuple[int, int], reporter: Reporter, advance: Callable[[int], None]
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
    if _read_state(path) != state:
        raise ModelError(f"{path} was written while it was hashed; wait until it is complete")
    return digest.hexdigest()
