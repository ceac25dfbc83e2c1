"""Every operation on storage that the cache knows, on a prefix in an object store.

A right to write that rests on a lease can lapse while its holder is suspended, and the holder then
wakes up in the middle of a write.  So nothing here replaces or removes what it has not been told
to by someone who is certain of that right at that moment: an object that is there already is
compared, and replaced on condition that it is still the one that was read before the right was
found to hold.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from cache.errors import LostClaimError
from cache.stores.bucket import Bucket, open_bucket
from cache.stores.files import check_path
from cache.stores.interface import always

WRITERS = 8
"""Objects of a shard that are put at once."""


class ObjectFiles:
    """Objects below one prefix; see :class:`cache.stores.interface.Files`."""

    def __init__(self, place: str | Bucket) -> None:
        self.bucket = place if isinstance(place, Bucket) else open_bucket(place)

    def read(self, path: str, limit: int) -> bytes | None:
        """Return at most ``limit`` + 1 bytes of an object, or None if there is none."""
        found = self.bucket.get(check_path(path), limit)
        return None if found is None else found.data

    def size(self, path: str) -> int | None:
        """Return the number of bytes of an object, or None if there is none."""
        found = self.bucket.head(check_path(path))
        return None if found is None else found[0]

    def write(self, objects: Mapping[str, bytes], is_mine: Callable[[], bool] = always) -> None:
        """Write whole objects; one with other bytes is replaced if the caller has the right."""
        checked = {check_path(path): data for path, data in objects.items()}
        with ThreadPoolExecutor(WRITERS) as pool:
            tasks = [pool.submit(self._write, *item, is_mine) for item in checked.items()]
        for task in tasks:
            task.result()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole object unless there is one of that name already."""
        return self.bucket.create(check_path(path), data) is not None

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names of what is directly below a prefix; none if there is none."""
        if not path:
            return self.bucket.list_top()
        skip = len(check_path(path)) + 1
        # Page by page, and nothing but names is kept: there may be a million commit records.
        return sorted({found[skip:].partition("/")[0] for found, _ in self.bucket.walk(path)})

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of every object, in no order."""
        return self.bucket.walk()

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        self.bucket.remove([check_path(path)])

    def discard(self, path: str) -> None:
        """Do nothing: an object is put whole, and a whole one may be a successor's."""
        check_path(path)

    def clear(self, path: str) -> None:
        """Remove every object below a prefix ("" for all)."""
        if path:
            check_path(path)
        self.bucket.remove([found for found, _ in self.bucket.walk(path)])

    def _write(self, path: str, data: bytes, is_mine: Callable[[], bool]) -> None:
        where = f"{self.bucket.url}/{path}"
        if self.bucket.create(path, data) is not None:
            return
        found = self.bucket.get(path, len(data))
        if found is not None and found.data == data:
            return
        # In this order: whoever had the right after the object was read, had it when it was
        # read, so it is no successor's; and should there be one by now, the store refuses.
        if not is_mine():
            raise LostClaimError(f"{where} was not written: the right to do so was lost meanwhile")
        if found is not None and self.bucket.replace(path, data, found.version) is not None:
            return
        found = self.bucket.get(path, len(data))
        if found is None or found.data != data:
            raise LostClaimError(f"{where} was not written: someone else writes it at this moment")
