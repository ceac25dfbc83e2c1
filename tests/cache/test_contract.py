"""What workers and users do, in any order, against a plain model of what must come of it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from contract import commit, expect_whole, mend, open_small, small
from faulty_files import new_place
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from store_worker import list_caches, make_columns

from cache.errors import ClaimError, DamageError, Hint, IncompleteError, ManifestError, StorageError
from cache.format.commits import record_path
from cache.format.manifest import MANIFEST
from cache.reader import CacheReader
from cache.removal import remove_cache
from cache.stores.interface import Claim
from cache.stores.places import LocalPlace
from cache.verification import repair_cache, verify_cache

SHARDS = range(3)
SETTINGS = small(len(SHARDS))
NUMBERS = st.integers(0, 1000)


class Contract(RuleBasedStateMachine):
    """Three workers on one cache, and what happens to its files meanwhile.

    Attributes:
        common: Paths of what belongs to the cache as a whole, of which some are ``attached``.
        paths: Those of each shard.
        claims: What the busy workers have claimed.
        former: Claims that were given back, by worker.
        committed: The shards that are committed.
        faulty: What is wrong with a file, "missing" or "changed", by path.
        seen: How often something was tried, over all examples.
    """

    def __init__(self, kind: str, folder: Path, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        seen["examples"] += 1
        self.root = new_place(kind, folder / str(seen["examples"]))
        self.place = self.root / SETTINGS.directory
        self.files = self.place.open_files()
        self.caches = [open_small(self.root, SETTINGS) for _ in range(3)]
        cache = self.caches[0]
        self.common = [*cache.manifest.files, MANIFEST]
        self.attached = [path for path in self.common if path.startswith("attachments/")]
        self.paths = {shard: {*cache.paths_of(shard)} for shard in SHARDS}
        self.claims: dict[int, Claim] = {}
        self.former: dict[int, Claim] = {}
        self.committed: set[int] = set()
        self.faulty: dict[str, str] = {}

    @property
    def idle(self) -> list[int]:
        return [worker for worker in range(3) if worker not in self.claims]

    @property
    def held(self) -> set[int]:
        return {claim.shard for claim in self.claims.values()}

    @property
    def damaged(self) -> set[int]:
        return {shard for shard in self.committed if self.paths[shard] & self.faulty.keys()}

    @property
    def is_lost(self) -> bool:
        return self.faulty.get(MANIFEST) == "missing"

    def is_changed(self, *paths: str) -> bool:
        return any(self.faulty.get(path) == "changed" for path in paths)

    def finish(self, worker: int, is_done: bool) -> None:
        with self.claims[worker] as claim:
            if is_done:
                commit(self.caches[worker], claim)
                self.note(claim.shard, True)
                self.seen["committed"] += 1
        self.former[worker] = self.claims.pop(worker)

    def note(self, shard: int, is_committed: bool) -> None:
        (self.committed.add if is_committed else self.committed.discard)(shard)
        for path in self.paths[shard]:
            self.faulty.pop(path, None)

    @precondition(lambda self: self.idle)
    @rule(number=NUMBERS)
    def open(self, number: int) -> None:
        is_lost = self.is_lost
        is_in_doubt = is_lost and self.committed and self.is_changed(*self.attached)
        if self.is_changed(MANIFEST) or is_in_doubt:
            with pytest.raises(ManifestError):
                open_small(self.root, SETTINGS)
            return
        self.caches[self.idle[number % len(self.idle)]] = open_small(self.root, SETTINGS)
        for path in self.common:
            if is_lost or not self.is_changed(path):
                self.faulty.pop(path, None)

    @precondition(lambda self: self.idle)
    @rule(number=NUMBERS, is_done_at_once=st.booleans())
    def claim(self, number: int, is_done_at_once: bool) -> None:
        worker = self.idle[number % len(self.idle)]
        if self.is_lost:
            with pytest.raises(StorageError):
                self.caches[worker].claim_next()
            return
        free = sorted(set(SHARDS) - self.committed - self.held)
        claim = self.caches[worker].claim_next()
        if claim is not None:
            self.claims[worker] = claim
        got = [claim.shard] if claim else []
        # A lease that was found taken is not looked at again at once.
        assert got == free[:1] or (not isinstance(self.place, LocalPlace) and {*got} <= {*free})
        if got and is_done_at_once:
            self.finish(worker, True)

    @precondition(lambda self: self.claims)
    @rule(number=NUMBERS, is_done=st.booleans())
    def commit_or_abandon(self, number: int, is_done: bool) -> None:
        self.finish([*self.claims][number % len(self.claims)], is_done)

    @precondition(lambda self: self.former)
    @rule(number=NUMBERS)
    def commit_without_a_claim(self, number: int) -> None:
        worker = [*self.former][number % len(self.former)]
        with pytest.raises(ClaimError):
            commit(self.caches[worker], self.former[worker])

    @precondition(lambda self: not self.faulty)
    @rule()
    def fill_the_rest(self) -> None:
        cache = open_small(self.root, SETTINGS)
        while (claim := cache.claim_next()) is not None:
            assert claim.shard not in self.held
            with claim:
                commit(cache, claim)
            self.note(claim.shard, True)
        assert self.committed == set(SHARDS) - self.held

    @precondition(lambda self: not self.is_lost or self.committed)
    @rule(choice=NUMBERS, how=st.sampled_from(["flip", "cut", "empty", "longer", ""]))
    def damage(self, choice: int, how: str) -> None:
        paths = sorted(
            [*self.common, *(path for shard in self.committed for path in self.paths[shard])]
        )
        path = paths[choice % len(paths)]
        data = self.files.read(path, 2**20)
        if data is None or (how and path in self.faulty):
            return
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
            self.note(shard, False)

    @rule()
    def verify(self) -> None:
        if self.is_lost and not self.committed:
            with pytest.raises(ManifestError):
                verify_cache(self.place)
            return
        report = verify_cache(self.place)
        assert report.committed == len(self.committed)
        named = {fault.file for fault in report.faults}
        if MANIFEST in self.faulty:
            assert named == {MANIFEST}
            return
        expected = {path for path in self.common if path in self.faulty}
        for shard in self.damaged:
            # Without its record nothing can be said of a file but whether it is there.
            unknown = self.is_changed(record_path(shard))
            expected |= {
                path
                for path in self.paths[shard] & self.faulty.keys()
                if not unknown or path == record_path(shard) or self.faulty[path] == "missing"
            }
        assert named == expected
        assert {fault.shard for fault in report.faults} - {None} == self.damaged

    @precondition(lambda self: not self.is_lost)
    @rule()
    def repair(self) -> None:
        repair_cache(verify_cache(self.place))
        for path in [MANIFEST] if self.is_changed(MANIFEST) else self.common:
            if path in self.faulty:
                self.faulty[path] = "missing"
        if MANIFEST not in self.faulty:
            self.seen["repaired"] += len(self.damaged)
            for shard in self.damaged:
                self.note(shard, False)

    @rule(number=NUMBERS, partial=st.booleans())
    def read(self, number: int, partial: bool) -> None:
        cache = self.caches[number % 3]
        if not self.committed or not (partial or self.committed == set(SHARDS)):
            with pytest.raises(IncompleteError):
                CacheReader(cache, partial)
            return
        if self.faulty.keys() & {*self.common} - {*self.attached, MANIFEST}:
            with pytest.raises(DamageError):
                CacheReader(cache, partial)
            return
        reader = CacheReader(cache, partial)
        assert {*reader.shards} == self.committed
        for shard in self.damaged:
            with pytest.raises(DamageError) as caught:
                reader.read_shard(shard)
            where = f"shard {shard}: {self.place}/"
            assert str(caught.value).startswith(where)
            assert str(caught.value).removeprefix(where).partition(": ")[0] in self.faulty
            assert caught.value.hint is Hint.VERIFY
        for shard in self.committed - self.damaged:
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
        self.committed, self.faulty = set(), dict.fromkeys(self.common, "missing")

    @invariant()
    def everyone_sees_what_is_there(self) -> None:
        assert {live.shard for live in self.place.open_claims().live()} == self.held
        if MANIFEST not in self.faulty:
            (summary,) = list_caches(self.root)
            assert (summary["committed"], summary["error"]) == (len(self.committed), None)
        for cache in self.caches:
            assert {*cache.committed()} == self.committed

    def teardown(self) -> None:
        for worker in [*self.claims]:
            self.finish(worker, False)
        if MANIFEST in self.faulty:
            for path in (MANIFEST, *self.attached):
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
    expected = {"committed", "read"} | ({"repaired", "removed"} if examples > 100 else set())
    assert all(seen[what] for what in expected), seen
