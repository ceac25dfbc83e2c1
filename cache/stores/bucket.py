"""The few operations on an object store that the cache rests on, each whole or not at all.

Everything is a whole object, put under a condition, which the store judges: unless there is one, or
instead of the very version that was read.  A request whose answer was lost may have been carried
out, and is sent again; so every object is marked with who put it, and a refused put looks for that.

A right to write that rests on a lease can lapse while its holder is suspended, who then wakes up
in the middle of a write.  So an object that is there already is compared, and replaced on condition
that it is still the one that was read before the right was found to hold.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from cache.errors import LostClaimError, StorageError
from cache.stores.files import check_path
from cache.stores.interface import always
from cache.stores.object_errors import check_environment, explain

if TYPE_CHECKING:
    from obstore import GetOptions, PutMode, UpdateVersion
    from obstore.store import ObjectStore

CONNECT_SECONDS = 5
REQUEST_SECONDS = 30.0  # for up to PART bytes; a larger request has as much more as its size asks
RETRY_SECONDS = 30.0
RETRIES = 6
PART = 8 * 2**20  # bytes that are got at once
SLOWEST = 2**19  # bytes a second below which a large put is given up
WRITERS = 8  # objects of a shard that are put at once
ATTEMPTS = 5  # times that something is read again because it was replaced or removed meanwhile

_WRITER = "writer"
_STORES: dict[str, type[S3Store | GCSStore | AzureStore]] = {
    "s3": S3Store,
    "gs": GCSStore,
    "az": AzureStore,
}
_LOADED_BY = os.getpid()


@dataclass(frozen=True)
class Found:
    """An object as it was read."""

    data: bytes  # its first bytes, up to the limit asked for and one more
    # What a put that replaces this version alone is conditional on: the store's tag (in S3 a hash
    # of the bytes, the same whenever these are), and its number where it has such.
    version: UpdateVersion
    modified: datetime  # when it was put, by the store's clock


class Bucket:
    """The objects below one prefix; see :class:`cache.stores.interface.Files`.

    Every method raises StorageError where the store cannot be reached or refuses.
    """

    def __init__(self, url: str, open_store: Callable[[float], ObjectStore]) -> None:
        """Open ``scheme://bucket/prefix``, by a function of the seconds for a whole request."""
        self.url = url
        self._open = open_store
        with self._reporting("open", ""):
            self._store = open_store(REQUEST_SECONDS)

    def get(self, path: str, limit: int) -> Found | None:
        """Return at most ``limit`` + 1 bytes of an object, None if there is none."""
        with self._reporting("read", path):
            for _ in range(ATTEMPTS):
                try:
                    return self._get(path, limit)
                except FileNotFoundError as error:
                    self._check_absent(error, "read", path)
                    return None
                except PreconditionError:
                    continue
        raise StorageError(f"{self.url}/{path} changes faster than it can be read")

    def read(self, path: str, limit: int) -> bytes | None:
        """Return at most ``limit`` + 1 bytes of an object, or None if there is none."""
        found = self.get(check_path(path), limit)
        return None if found is None else found.data

    def size(self, path: str) -> int | None:
        """Return the number of bytes of an object, or None if there is none."""
        with self._reporting("read", path):
            try:
                return obstore.head(self._store, check_path(path))["size"]
            except FileNotFoundError as error:
                self._check_absent(error, "read", path)
                return None

    def write(self, objects: Mapping[str, bytes], is_mine: Callable[[], bool] = always) -> None:
        """Write whole objects; one with other bytes is replaced if the caller has the right."""
        checked = {check_path(path): data for path, data in objects.items()}
        with ThreadPoolExecutor(WRITERS) as pool:
            tasks = [pool.submit(self._write, *item, is_mine) for item in checked.items()]
        for task in tasks:
            task.result()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole object unless there is one of that name already."""
        return self.put(check_path(path), data, "create") is not None

    def put(self, path: str, data: bytes, mode: PutMode) -> UpdateVersion | None:
        """Put an object: ``create`` a new one, or in place of a version, or ``overwrite`` any.

        Of any number of callers one gets the new version, the others None.
        """
        mark = uuid.uuid4().hex
        longest = REQUEST_SECONDS + len(data) / SLOWEST
        store = self._store if len(data) <= PART else self._open(longest)
        with self._reporting("write", path):
            for _ in range(ATTEMPTS):
                try:
                    marked: Any = {"attributes": {_WRITER: mark}, "use_multipart": False}
                    return _version_of(obstore.put(store, path, data, mode=mode, **marked))
                except FileNotFoundError as error:
                    raise self._refusal(error, "write", path, missing=True) from error
                except (AlreadyExistsError, PreconditionError):
                    try:
                        there = obstore.get(self._store, path)
                    except FileNotFoundError as error:
                        self._check_absent(error, "write", path)
                        if mode == "create":
                            continue  # removed since
                        return None
                    if there.attributes.get(_WRITER) != mark:
                        return None
                    return _version_of(there.meta)
        raise StorageError(f"{self.url}/{path} comes and goes faster than it can be written")

    def walk(self, path: str = "") -> Iterator[tuple[str, int]]:
        """Yield path and size of every object below a prefix ("" for all), page by page."""
        with self._reporting("list", path):
            for page in obstore.list(self._store, path or None, chunk_size=1000):
                for meta in page:
                    yield meta["path"], meta["size"]

    def names(self, path: str = "", objects: bool = True) -> list[str]:
        """Return the sorted names of prefixes, and of ``objects``, that are directly below one."""
        if path:
            skip = len(check_path(path)) + 1
            # Page by page, and nothing but names is kept: there may be a million commit records.
            return sorted({found[skip:].partition("/")[0] for found, _ in self.walk(path)})
        with self._reporting("list", ""):
            listed = obstore.list_with_delimiter(self._store)
        names = [*listed["common_prefixes"]]
        return sorted(names + [meta["path"] for meta in listed["objects"] if objects])

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        self._remove([check_path(path)])

    def discard(self, path: str) -> None:
        """Do nothing: an object is put whole, and a whole one may be a successor's."""
        check_path(path)

    def clear(self, path: str) -> None:
        """Remove every object below a prefix ("" for all)."""
        self._remove([found for found, _ in self.walk(path and check_path(path))])

    def _remove(self, paths: Sequence[str]) -> None:
        with self._reporting("remove", paths[0] if len(paths) == 1 else ""):
            try:
                obstore.delete(self._store, paths)
                return
            except FileNotFoundError as error:
                self._check_absent(error, "remove", "")
        # Some stores say so where one of many was not there, without removing the others.
        if len(paths) > 1:
            for path in paths:
                self._remove([path])

    def _write(self, path: str, data: bytes, is_mine: Callable[[], bool]) -> None:
        where = f"{self.url}/{path}"
        if self.put(path, data, "create") is not None:
            return
        found = self.get(path, len(data))
        if found is not None and found.data == data:
            return
        # In this order: whoever had the right after the object was read, had it when it was
        # read, so it is no successor's; and should there be one by now, the store refuses.
        if not is_mine():
            raise LostClaimError(f"{where} was not written: the right to do so was lost meanwhile")
        if found is not None and self.put(path, data, found.version) is not None:
            return
        found = self.get(path, len(data))
        if found is None or found.data != data:
            raise LostClaimError(f"{where} was not written: someone else writes it at this moment")

    def _get(self, path: str, limit: int) -> Found:
        result = obstore.get(self._store, path)
        meta = result.meta
        size = min(meta["size"], limit + 1)
        if meta["size"] <= min(limit + 1, PART):
            data = bytes(result.bytes())
        else:
            del result  # and with it the rest of the body
            buffer = io.BytesIO()
            for start in range(0, size, PART):
                # Of the same version throughout: half of one and half of another is neither.
                span = (start, min(start + PART, size))
                options: GetOptions = {"range": span, "if_match": meta["e_tag"]}
                buffer.write(obstore.get(self._store, path, options=options).bytes())
            data = buffer.getvalue()
        if len(data) != size:
            raise StorageError(
                f"cannot read {self.url}/{path}: {len(data)} bytes came instead of {size}"
            )
        return Found(data, _version_of(meta), meta["last_modified"])

    @contextmanager
    def _reporting(self, action: str, path: str) -> Iterator[None]:
        if os.getpid() != _LOADED_BY:
            # The library's threads are not in the child: every call would wait for ever.
            raise StorageError(
                f"cannot {action} {self.url} in a forked process: its parent has loaded the "
                "object store's library, which does not outlive a fork; start a fresh process"
            )
        try:
            yield
        except BaseException as error:
            known = isinstance(error, BaseError | OSError | ValueError | NotImplementedError)
            # Where the library trips over a setting, a header that cannot be sent for instance.
            if not known and type(error).__name__ != "PanicException":
                raise
            raise self._refusal(error, action, path) from error

    def _refusal(
        self, error: BaseException, action: str, path: str, missing: bool = False
    ) -> StorageError:
        reason = explain(str(error), self.url, missing)
        return StorageError(f"cannot {action} {self.url}{'/' if path else ''}{path}: {reason}")

    def _check_absent(self, error: FileNotFoundError, action: str, path: str) -> None:
        # S3 says the same of an object and of its bucket, but for a word in the answer's body.
        if "NoSuchBucket" in str(error):
            raise self._refusal(error, action, path) from error


def open_bucket(url: str, seconds: float | None = None) -> Bucket:
    """Open a prefix in a bucket, with endpoint and credentials from the environment.

    A request takes at most ``seconds`` with all its repetitions; None: what suits data.
    """
    parts = urlsplit(url)
    check_environment(parts.scheme)

    def open_store(request: float) -> ObjectStore:
        options: dict[str, Any] = {
            "prefix": parts.path.strip("/") or None,
            "client_options": {
                "allow_http": True,
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "timeout": timedelta(seconds=min(request, seconds or request)),
            },
            "retry_config": {
                "max_retries": RETRIES,
                "retry_timeout": timedelta(seconds=seconds or RETRY_SECONDS),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=500),
                    "max_backoff": timedelta(seconds=4),
                    "base": 2,
                },
            },
        }
        return _STORES[parts.scheme](parts.netloc, **options)

    return Bucket(url, open_store)


def _version_of(found: Mapping[str, Any]) -> UpdateVersion:
    version = {key: found[key] for key in ("e_tag", "version") if found[key] is not None}
    return cast("UpdateVersion", version)
