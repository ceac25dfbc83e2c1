"""The bytes of a file, a pipe or standard input: read once, unpacked, as UTF-8, and in lines."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import select
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from stages.errors import SettingError, TextDataError

READ_BYTES = 2**20
LONGEST = 64 * 2**20  # bytes in a line, a cell or a JSON array; an endless one ends in an error


class Stream(io.RawIOBase):
    """Bytes that can be looked at before they are read; a read gives what is there."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read, self._ahead = read, b""

    def readable(self) -> bool:
        """Say so to the modules that unpack."""
        return True

    def peek(self) -> bytes:
        """Return what comes next: a line that holds more than a bracket, 64 KiB, or all."""
        while len(self._ahead) < 2**16:
            held = self._ahead.lstrip()
            is_enough = b"\n" in held and held.rstrip() not in (b"[", b"{")
            if is_enough or not (data := self._read(READ_BYTES)):
                break
            self._ahead += data
        return self._ahead

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer."""
        self._ahead = self._ahead or self._read(len(buffer))
        data, self._ahead = self._ahead[: len(buffer)], self._ahead[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class Lines:
    """Lines of a stream without their line feeds, each with its number from 1."""

    def __init__(self, stream: Stream) -> None:
        self.waiting = deque[tuple[bytes, int]]()  # those that are there already
        self._stream, self._rest, self._numbers = stream, b"", count(1)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        while True:
            while not self.waiting:
                # The last line may have no end.
                data = self._stream.read(READ_BYTES) or (self._rest and b"\n")
                if not data:
                    return
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.waiting.extend(zip(lines, self._numbers, strict=False))
                if len(self._rest) > LONGEST:
                    raise TextDataError(f"a line is longer than {LONGEST >> 20} MiB")
            yield self.waiting.popleft()


def open_source(path: Path, check_stop: Callable[[], None]) -> tuple[int, Stream]:
    """Return a descriptor and its bytes; ``check_stop`` is asked while none are there."""
    named = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    if str(path) in ("-", "/dev/stdin"):
        if sys.stdin is None:
            raise SettingError("standard input is closed; name a FILE")
        descriptor = os.dup(sys.stdin.fileno())
    # A pipe opened anew would not say that its writer has gone; a file begins anew.
    elif named and not path.is_file():
        descriptor = os.dup(int(named[1]))
    else:
        # Without waiting for a named pipe's writer: a wait inside open sees no signal.
        wait = os.O_NONBLOCK if sys.platform == "linux" else 0
        descriptor = os.open(path, os.O_RDONLY | wait)

    # Past Python's buffer: select sees nothing of what a buffer holds, and a thread that waits
    # inside one would break the interpreter's end.
    def read(size: int) -> bytes:
        check_stop()
        # Wake now and then to see a signal.
        while not select.select([descriptor], [], [], 0.2)[0]:
            check_stop()
        return os.read(descriptor, size)

    return descriptor, Stream(read)


def is_read_once(path: Path) -> bool:
    """Return whether it is a pipe, a terminal or the like: what was read is gone."""
    return str(path) == "-" or (path.exists() and not (path.is_file() or path.is_dir()))


def unpack(stream: Stream, path: Path) -> Stream:
    """Return the stream, or another one of what it holds if that or its ending is compressed."""
    head, ending = stream.peek(), path.suffix.lower()
    kind = next((kind for kind in PACKED if PACKED[kind][0].match(head)), ending if head else "")
    return Stream(PACKED[kind][1](stream).read1) if kind in PACKED else stream


def as_utf8(stream: Stream) -> Stream:
    """Return a stream of UTF-8 or, with a byte-order mark, UTF-16 as UTF-8 without the mark."""
    head = stream.peek()
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    if not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return stream
    data = iter(lambda: stream.read(READ_BYTES), b"")
    # Half a surrogate pair becomes bytes that are no UTF-8.
    texts = codecs.iterdecode(data, "utf-16", "surrogatepass")
    return Stream(lambda size: next(texts, "").encode("utf-8", "surrogatepass"))


def _open_zstd(stream: Stream) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, "r"), "zstd")


# What a compressed file begins with, and what opens it, by the ending that promises it.
PACKED: dict[str, tuple[re.Pattern[bytes], Callable[[Any], Any]]] = {
    ".gz": (re.compile(rb"\x1f\x8b\x08"), gzip.open),
    ".bz2": (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
    ".xz": (re.compile(rb"\xfd7zXZ\0"), lzma.open),
    ".zst": (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _open_zstd),
}
