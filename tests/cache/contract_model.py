"""What a cache must look like after anything that workers do: the model of `test_contract.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract import small
from faulty_disk import Death
from faulty_files import Fuse, new_place
from hypothesis.stateful import RuleBasedStateMachine
from store_worker import ATTACHMENTS

from cache.directory import Cache
from cache.errors import CacheError
from cache.format.commits import record_path
from cache.format.manifest import MANIFEST
from cache.format.shards import metadata, object_path
from cache.stores.interface import Claim

SHARDS = range(3)
SETTINGS = small(len(SHARDS))
ATTACHED = {f"attachments/{name}": data for name, data in ATTACHMENTS.items()}
METADATA = metadata(SETTINGS.layout, SETTINGS.fingerprint)
COMMON = {**ATTACHED, **METADATA, MANIFEST: b""}
FILES = {
    shard: {
        *(object_path(name, column, shard) for name, column in SETTINGS.layout.columns.items()),
        record_path(shard),
    }
    for shard in SHARDS
}


class Worker:
    """A process: its own view of the place, its cache, its claim, and the last one given back."""

    def __init__(self) -> None:
        self.fuse = Fuse()
        self.cache: Cache | None = None
        self.claim: Claim | None = None
        self.former: Claim | None = None

    def let_go(self) -> None:
        if self.claim is not None:
            self.claim.release()
        self.former, self.claim = self.claim, None


class Model(RuleBasedStateMachine):
    """Workers on one cache, and plainly what must come of all that they do.

    Attributes:
        committed: The shards that are committed.
        faulty: What is wrong with a file, "missing" or "changed", by path.
    """

    def __init__(self, kind: str, folder: Path, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        seen["examples"] += 1
        self.root = new_place(kind, folder / str(seen["examples"]))
        self.place = self.root / SETTINGS.directory
        self.files = self.place.open_files()
        self.workers = [Worker() for _ in range(3)]
        self.committed: set[int] = set()
        self.faulty = dict.fromkeys(COMMON, "missing")

    @property
    def idle(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.claim is None]

    @property
    def ready(self) -> list[Worker]:
        return [worker for worker in self.idle if worker.cache is not None]

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.claim is not None]

    @property
    def held(self) -> set[int]:
        return {worker.claim.shard for worker in self.workers if worker.claim is not None}

    @property
    def damaged(self) -> set[int]:
        return {shard for shard in self.committed if FILES[shard] & self.faulty.keys()}

    def is_changed(self, *paths: str) -> bool:
        return any(self.faulty.get(path) == "changed" for path in paths)

    def attempt(
        self, worker: Worker, accident: tuple[int, str], action: Callable[[Worker], Any]
    ) -> CacheError | bool:
        """Return the error that it ended with, if any; True where an accident decided that."""
        worker.fuse.arm(*accident)
        error: CacheError | bool = False
        try:
            action(worker)
        except CacheError as raised:
            error = raised
        except Death:
            worker.let_go()
            self.workers[self.workers.index(worker)] = Worker()
        is_blown = worker.fuse.is_blown
        worker.fuse.arm()
        if is_blown:
            self.seen[accident[1]] += 1
            self.look()
        return is_blown or error

    def look(self) -> None:
        """Learn what an accident left; it must have cost nothing that was there."""
        there = {shard for shard in SHARDS if self.files.size(record_path(shard)) is not None}
        assert self.committed <= there
        for shard in there - self.committed:
            self.note_commit(shard)
        for path, right in COMMON.items():
            data = self.files.read(path, 2**20)
            if data is None:
                assert self.faulty.get(path) == "missing" or not self.committed, path
                self.faulty[path] = "missing"
            elif self.faulty.get(path) == "missing":
                del self.faulty[path]
                assert path == MANIFEST or data == right
            elif path != MANIFEST and data == right:
                self.faulty.pop(path, None)

    def note_commit(self, shard: int) -> None:
        self.committed.add(shard)
        for path in FILES[shard]:
            self.faulty.pop(path, None)
