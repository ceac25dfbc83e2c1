from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from contract import commit, expect_whole, mend, open_small
from contract_model import ATTACHED, COMMON, FILES, METADATA, SETTINGS, SHARDS, Model, Worker
from faulty_files import FAULTS, behind
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from store_worker import make_columns

from cache.errors import (
    ClaimError,
    DamageError,
    Hint,
    IncompleteError,
    ManifestError,
    StorageError,
)
from cache.format.commits import record_path
from cache.format.manifest import MANIFEST
from cache.opening import list_caches
from cache.reader import CacheReader
from cache.removal import remove_cache
from cache.stores.places import LocalPlace
from cache.verification import repair_cache, verify_cache

WORKERS = st.integers(0, 2)
NONE = st.just((-1, ""))
ACCIDENTS = NONE | NONE | NONE | st.tuples(st.integers(0, 9), st.sampled_from(sorted(FAULTS)))


class Contract(Model):
    """What workers and users do, in any order, and what happens to the files meanwhile."""

    @initialize()
    def begin(self) -> None:
        for number in range(3):
            self.open(number, (-1, ""))

    @precondition(lambda self: self.idle)
    @rule(number=WORKERS, accident=ACCIDENTS)
    def open(self, number: int, accident: tuple[int, str]) -> None:
        def action(worker: Worker) -> None:
            worker.cache = open_small(behind(self.root, worker.fuse), SETTINGS)

        is_lost = self.faulty.get(MANIFEST) == "missing"
        error = self.attempt(self.idle[number % len(self.idle)], accident, action)
        if error is True:
            return
        if self.is_changed(MANIFEST) or (is_lost and self.committed and self.is_changed(*ATTACHED)):
            assert isinstance(error, ManifestError)
            return
        assert error is False
        for path in COMMON:
            if is_lost or not self.is_changed(path):
                self.faulty.pop(path, None)

    @precondition(lambda self: self.ready)
    @rule(number=WORKERS, accident=ACCIDENTS)
    def claim(self, number: int, accident: tuple[int, str]) -> None:
        def action(worker: Worker) -> None:
            if worker.cache is not None:
                worker.claim = worker.cache.claim_next()

        worker = self.ready[number % len(self.ready)]
        free = sorted(set(SHARDS) - self.committed - self.held)
        error = self.attempt(worker, accident, action)
        if error is True:
            return
        if self.faulty.get(MANIFEST) == "missing":
            assert isinstance(error, StorageError)
        else:
            assert error is False
            got = [worker.claim.shard] if worker.claim else []
            # A lease that was found taken is not looked at again at once.
            assert got == free[:1] or (not isinstance(self.place, LocalPlace) and {*got} <= {*free})
            self.seen["claimed"] += len(got)

    @precondition(lambda self: self.busy)
    @rule(number=WORKERS, accident=ACCIDENTS)
    def commit(self, number: int, accident: tuple[int, str]) -> None:
        def action(worker: Worker) -> None:
            if worker.cache is not None and worker.claim is not None:
                with worker.claim:
                    commit(worker.cache, worker.claim)

        worker = self.busy[number % len(self.busy)]
        (shard,) = {worker.claim.shard} if worker.claim else ()
        error = self.attempt(worker, accident, action)
        worker.let_go()
        if error is not True:
            assert error is False
            self.note_commit(shard)
            self.seen["committed"] += 1

    @precondition(lambda self: self.ready and MANIFEST not in self.faulty)
    @rule(number=WORKERS, accident=ACCIDENTS)
    def claim_and_commit(self, number: int, accident: tuple[int, str]) -> None:
        self.claim(number, (-1, ""))
        if self.busy:
            self.commit(number, accident)

    @precondition(lambda self: self.busy)
    @rule(number=WORKERS)
    def abandon(self, number: int) -> None:
        self.busy[number % len(self.busy)].let_go()

    @precondition(lambda self: any(worker.former for worker in self.ready))
    @rule(number=WORKERS)
    def commit_without_a_claim(self, number: int) -> None:
        worker = next(worker for worker in self.ready if worker.former)
        if worker.cache is not None and worker.former is not None:
            with pytest.raises(ClaimError):
                commit(worker.cache, worker.former)

    @precondition(lambda self: not self.faulty)
    @rule()
    def fill_the_rest(self) -> None:
        cache = open_small(self.root, SETTINGS)
        while (claim := cache.claim_next()) is not None:
            assert claim.shard not in self.held
            with claim:
                commit(cache, claim)
            self.note_commit(claim.shard)
        assert self.committed == set(SHARDS) - self.held

    @precondition(lambda self: self.faulty.get(MANIFEST) != "missing" or self.committed)
    @rule(choice=st.integers(0, 1000), how=st.sampled_from(["flip", "cut", "empty", "longer", ""]))
    def damage(self, choice: int, how: str) -> None:
        paths = sorted([*COMMON, *(path for shard in self.committed for path in FILES[shard])])
        path = paths[choice % len(paths)]
        data = self.files.read(path, 2**20)
        if data is None or (how and path in self.faulty):
            return
        self.seen[f"damaged: {how}"] += 1
        if how:
            place = choice % len(data)
            flipped = bytes([data[place] ^ 1 << choice % 8])
            changed = {
                "flip": data[:place] + flipped + data[place + 1 :],
                "cut": data[:place],
                "empty": b"",
                "longer": data + b"\n",
            }
            self.files.write({path: changed[how]})
            self.faulty[path] = "changed"
            return
        self.files.remove(path)
        self.faulty[path] = "missing"
        for shard in [shard for shard in self.committed if path == record_path(shard)]:
            self.note_commit(shard)
            self.committed.remove(shard)

    @rule()
    def verify(self) -> None:
        if self.faulty.get(MANIFEST) == "missing" and not self.committed:
            with pytest.raises(ManifestError):
                verify_cache(self.place)
            return
        report = verify_cache(self.place)
        assert report.committed == len(self.committed)
        named = {fault.file for fault in report.faults}
        if MANIFEST in self.faulty:
            assert named == {MANIFEST}
            return
        expected = {path for path in COMMON if path in self.faulty}
        for shard in self.damaged:
            # Without its record nothing can be said of a file but whether it is there.
            unknown = self.is_changed(record_path(shard))
            expected |= {
                path
                for path in FILES[shard] & self.faulty.keys()
                if not unknown or path == record_path(shard) or self.faulty[path] == "missing"
            }
        assert named == expected
        assert {fault.shard for fault in report.faults} - {None} == self.damaged

    @precondition(lambda self: self.faulty.get(MANIFEST) != "missing")
    @rule()
    def repair(self) -> None:
        repair_cache(verify_cache(self.place))
        for path in [MANIFEST] if self.is_changed(MANIFEST) else [*COMMON]:
            if path in self.faulty:
                self.faulty[path] = "missing"
        if MANIFEST not in self.faulty:
            self.seen["repaired"] += len(self.damaged)
            for shard in self.damaged:
                self.note_commit(shard)
                self.committed.remove(shard)

    @precondition(lambda self: self.ready)
    @rule(number=WORKERS, partial=st.booleans())
    def read(self, number: int, partial: bool) -> None:
        cache = self.ready[number % len(self.ready)].cache
        if cache is None:
            return
        if not self.committed or not (partial or self.committed == set(SHARDS)):
            with pytest.raises(IncompleteError):
                CacheReader(cache, partial)
        elif METADATA.keys() & self.faulty.keys():
            with pytest.raises(DamageError):
                CacheReader(cache, partial)
        else:
            reader = CacheReader(cache, partial)
            assert {*reader.shards} == self.committed
            for shard in reader.shards:
                if shard in self.damaged:
                    with pytest.raises(DamageError) as caught:
                        reader.read_shard(shard)
                    where = f"shard {shard}: {self.place}/"
                    assert str(caught.value).startswith(where)
                    named = str(caught.value).removeprefix(where).partition(": ")[0]
                    assert named in self.faulty
                    assert caught.value.hint is Hint.VERIFY
                    continue
                rows, expected = reader.read_shard(shard), make_columns(cache, shard)
                for name, values in rows.items():
                    np.testing.assert_array_equal(values, expected[name], strict=True)
                self.seen["read"] += 1

    @rule()
    def remove(self) -> None:
        is_there = self.files.names() or (
            isinstance(self.place, LocalPlace) and self.place.path.exists()
        )
        if not is_there or self.held:
            with pytest.raises(ClaimError if is_there else ManifestError):
                remove_cache(self.place)
            return
        remove_cache(self.place)
        assert self.files.names() == []
        self.seen["removed"] += len(self.committed)
        self.committed, self.faulty = set(), dict.fromkeys(COMMON, "missing")

    @invariant()
    def everyone_sees_what_is_there(self) -> None:
        assert {live.shard for live in self.place.open_claims().live()} == self.held
        if MANIFEST not in self.faulty:
            (summary,) = list_caches(self.root)
            assert (summary["committed"], summary["error"]) == (len(self.committed), None)
        for worker in self.workers:
            if worker.cache is not None:
                assert {*worker.cache.committed()} == self.committed

    def teardown(self) -> None:
        for worker in self.workers:
            worker.let_go()
        if MANIFEST in self.faulty:
            for path in (MANIFEST, *ATTACHED):
                self.files.remove(path)
        mend(self.root, SETTINGS)
        expect_whole(self.root, SETTINGS)


@pytest.mark.parametrize("examples", [8, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["directory", "store"])
def test_whatever_workers_do_the_contract_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, examples: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    seen: Counter[str] = Counter()
    run_machine(  # type: ignore[no-untyped-call]
        lambda: Contract(kind, tmp_path, seen),
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    expected = {"committed", "read"} if examples < 100 else {*FAULTS, "repaired", "removed", "read"}
    assert all(seen[what] for what in expected), seen
