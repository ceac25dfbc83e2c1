"""The bytes of a file, a pipe or standard input: read once, unpacked, and as UTF-8."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import select
import stat
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from stages.errors import SettingError, TextDataError

READ_BYTES = 2**20
LONGEST = 64 * 2**20  # bytes in a line, characters in a value: an endless one ends in an error
DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)")
# What a compressed file begins with, by the ending that promises it.
PACKED = {
    ".gz": re.compile(rb"\x1f\x8b\x08"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
# Byte-order marks, and what text without one looks like whose first characters are ASCII.
ENCODINGS = {
    "utf-32": re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff"),
    "utf-16": re.compile(rb"\xff\xfe|\xfe\xff"),
    "utf-16-le": re.compile(rb"[\t-\r -\x7f]\0[\t-\r -\x7f]\0"),
    "utf-16-be": re.compile(rb"\0[\t-\r -\x7f]\0[\t-\r -\x7f]"),
}


class Stream(io.RawIOBase):
    """Bytes that can be looked at before they are read; a read gives what is there."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read, self._ahead = read, b""

    def readable(self) -> bool:
        """Say so to the modules that unpack."""
        return True

    def peek(self, is_enough: Callable[[bytes], object]) -> bytes:
        """Return what comes next, at least enough of it or all."""
        while not is_enough(self._ahead) and (data := self._read(READ_BYTES)):
            self._ahead += data
        return self._ahead

    def take(self, count: int = READ_BYTES) -> bytes:
        """Return the next bytes, at most so many, and none at the end."""
        if not self._ahead:
            return self._read(count)
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer."""
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Lines:
    """Lines of a stream without their line feeds; ``number`` is that of the last one, from 1."""

    def __init__(self, stream: Stream) -> None:
        self.number = 0
        self._stream, self._rest, self._end = stream, b"", b""
        self._lines: deque[bytes] = deque()

    @property
    def waiting(self) -> bool:
        """Whether the next line is there already."""
        return bool(self._lines)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes:
        if not self._lines:
            self._fill()
        if not self._lines:
            raise StopIteration
        self.number += 1
        return self._lines.popleft()

    def put_back(self, lines: list[bytes]) -> None:
        """Have the lines that were given last be given once more."""
        self._lines.extendleft(reversed(lines))
        self.number -= len(lines)

    def _fill(self) -> None:
        parts, size = [self._rest], len(self._rest)
        while data := self._stream.take():
            parts.append(data)
            size += len(data)
            if (self._end or b"\n") in data:
                break
            if size > LONGEST:
                longest = f"{LONGEST // 2**20} MiB"
                raise TextDataError(f"line {self.number + 1} is longer than {longest}")
        text = b"".join(parts)
        # Carriage returns alone end the lines of a file that has no line feed.
        self._end = self._end or (b"\r" if b"\n" not in text and b"\r" in text else b"\n")
        *lines, self._rest = text.split(self._end)
        if not data and self._rest:
            lines.append(self._rest)
            self._rest = b""
        self._lines.extend(lines)


def open_source(path: Path, check_stop: Callable[[], None]) -> tuple[int, Stream]:
    """Return a descriptor of a file, a pipe, or standard input for ``-``, and its bytes.

    ``check_stop`` is asked while none are there.

    Raises:
        OSError: It cannot be opened.
        SettingError: Standard input is closed.
    """
    named = DESCRIPTOR.fullmatch(str(path))
    number = int(named[1] or named[2]) if named else -1
    if str(path) in ("-", "/dev/stdin"):
        if sys.stdin is None:
            raise SettingError("standard input is closed; name a FILE")
        descriptor = os.dup(sys.stdin.fileno())
    # A pipe opened anew would not say that its writer has gone; a file begins anew.
    elif named and not stat.S_ISREG(os.fstat(number).st_mode):
        descriptor = os.dup(number)
    else:
        # Without waiting for a named pipe's writer: a wait inside open sees no signal.
        wait = os.O_NONBLOCK if sys.platform == "linux" else 0
        descriptor = os.open(path, os.O_RDONLY | wait)

    # Past Python's buffer: select sees nothing of what a buffer holds, and a thread that waits
    # inside one would break the interpreter's end.
    def read(count: int) -> bytes:
        while True:
            check_stop()
            # Wake now and then to see a signal.
            if select.select([descriptor], [], [], 0.2)[0]:
                try:
                    return os.read(descriptor, count)
                except BlockingIOError:
                    continue

    return descriptor, Stream(read)


def is_read_once(path: Path) -> bool:
    """Return whether it is a pipe, a terminal or the like: what was read is gone."""
    return str(path) == "-" or (path.exists() and not (path.is_file() or path.is_dir()))


def unpack(stream: Stream, path: Path) -> tuple[Stream, bool]:
    """Return a stream with nothing compressed about it, and whether it is another one.

    Raises:
        OSError: It is not what the file's ending promises.
        TextDataError: It takes a package that is not installed.
    """
    is_packed = False
    while True:
        head = stream.peek(lambda data: b"\n" in data or len(data) >= 16)
        kind = next((ending for ending, magic in PACKED.items() if magic.match(head)), None)
        if kind is None:
            break
        stream, is_packed = Stream(_open_packed(stream, kind)), True
    if path.suffix.lower() in PACKED and head and not is_packed:
        name = "gzipped" if path.suffix.lower() == ".gz" else path.suffix
        raise OSError(f"Not a {name} file, whatever its ending says")
    return stream, is_packed


def as_utf8(stream: Stream) -> Stream:
    """Return the text as UTF-8 without a byte-order mark; broken characters stay broken bytes."""
    head = stream.peek(lambda data: b"\n" in data or len(data) >= 4)
    name = next((name for name, magic in ENCODINGS.items() if magic.match(head)), None)
    if name is None:
        if head.startswith(codecs.BOM_UTF8):
            stream.take(len(codecs.BOM_UTF8))
        return stream
    decoder = codecs.getincrementaldecoder(name)("surrogatepass")

    def read(count: int) -> bytes:
        while data := stream.take(count):
            if text := decoder.decode(data):
                return text.encode("utf-8", "surrogatepass")
        # Half a character at the end is as broken as one in the middle.
        is_broken = bool(decoder.getstate()[0])
        decoder.reset()
        return b"\xff" if is_broken else b""

    return Stream(read)


def import_arrow(what: str) -> None:
    """Import pyarrow, or raise TextDataError with what takes it."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        install = "pip install -c constraints.txt -e '.[arrow]'"
        raise TextDataError(f"{what} takes the package pyarrow: {install}") from error


def _open_packed(stream: Stream, ending: str) -> Callable[[int], bytes]:
    if ending == ".gz":
        return gzip.GzipFile(fileobj=stream).read1
    if ending == ".bz2":
        return bz2.BZ2File(stream).read1
    if ending == ".xz":
        return lzma.LZMAFile(stream).read1
    import_arrow("zstd")
    import pyarrow

    opened = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, "r"), "zstd")
    # It reads until the count is full, or the stream ends.
    return lambda count: bytes(opened.read1(min(count, 2**16)))
