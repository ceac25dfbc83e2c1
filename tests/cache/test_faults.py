from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from contract import contents, damage, expect_recovery, expect_whole, mend, run, small
from faulty_disk import FAULTS, Death, Disk
from faulty_files import FAULTS as CALL_FAULTS
from faulty_files import Fuse, behind, new_place
from store_worker import fill, make_cache, make_manifest

from cache.errors import CacheError, StorageError
from cache.format.manifest import Manifest
from cache.reader import CacheReader
from cache.removal import remove_cache
from cache.stores.places import LocalPlace, Place
from cache.verification import verify_cache

LIES = [fault for fault in FAULTS if "nothing" in fault]
HONEST = [fault for fault in FAULTS if fault not in LIES]
SIZES = [(2, 20), pytest.param(3, 1, marks=pytest.mark.slow)]
"""Shards, and of how many calls one meets its accident."""


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def remove(root: Place, manifest: Manifest) -> None:
    remove_cache(root / manifest.directory)


Operation = Callable[[Place, Manifest], object]


def accidents(
    folder: Path, operation: Operation, manifest: Manifest, fault: str, step: int
) -> Iterator[LocalPlace]:
    """Have an accident at one call after the other that an operation makes."""
    start, disk = folder / "start", folder / "disk"
    start.mkdir()
    if operation is not run:
        damage(LocalPlace(start / "root"), manifest)

    def attempt(at: int) -> Disk:
        shutil.copytree(start, disk)
        calls = Disk(disk, at, fault)
        with calls.in_force():
            try:
                operation(LocalPlace(disk / "root"), manifest)
            except CacheError:
                assert at >= 0 and fault != "done twice"
        return calls

    log = attempt(-1).log
    step = 1 if fault == "done twice" else step
    # Other calls for every kind of fault.
    for at, (kind, path) in [*enumerate(log)][[*FAULTS].index(fault) % step :: step]:
        if kind in FAULTS[fault]:
            shutil.rmtree(disk)
            assert attempt(at).leaked == [], f"{at}: {kind} {path}"
            with Disk(disk).in_force():
                yield LocalPlace(disk / "root")


@pytest.mark.parametrize(("shards", "step"), SIZES)
@pytest.mark.parametrize("fault", HONEST)
@pytest.mark.parametrize("operation", [run, mend, remove])
def test_after_any_call_that_fails_the_same_command_finishes_what_is_a_cache_or_gone(
    tmp_path: Path, operation: Operation, fault: str, shards: int, step: int
) -> None:
    manifest, last = small(shards), f"commits/{shards - 1:06d}.json"
    step = (step + 1) // 2 if operation is run else step
    for root in accidents(tmp_path, operation, manifest, fault, step):
        if operation is run:
            expect_recovery(root, manifest)
            continue
        kept = contents(root, manifest, last)
        mend(root, manifest)
        assert operation is remove or (kept and contents(root, manifest, last) == kept)
        expect_whole(root, manifest)
        if operation is remove:
            remove(root, manifest)
            assert not (root / manifest.directory).path.exists()


@pytest.mark.parametrize(("shards", "step"), [(2, 1), pytest.param(3, 1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", LIES)
def test_where_the_disk_lies_no_wrong_row_is_ever_read(
    tmp_path: Path, fault: str, shards: int, step: int
) -> None:
    manifest = small(shards)
    named = 0
    for root in accidents(tmp_path, run, manifest, fault, step):
        try:
            run(root, manifest)  # holds every row against what was to be written
        except CacheError:
            named += 1
            mend(root, manifest)
        expect_whole(root, manifest)
    assert (named > 0) == (fault == "nothing")


@pytest.mark.parametrize(("shards", "step"), SIZES)
@pytest.mark.parametrize("operation", [run, mend, remove])
def test_after_any_call_of_an_object_store_that_fails_the_contract_holds(
    tmp_path: Path, operation: Operation, shards: int, step: int
) -> None:
    manifest = small(shards)

    def attempt(fuse: Fuse) -> Place:
        root = new_place("store", tmp_path / f"{fuse.at} {fuse.fault}")
        if operation is not run:
            damage(root, manifest)
        with suppress(CacheError, Death):
            operation(behind(root, fuse), manifest)
        return root

    plain = Fuse()
    attempt(plain)
    cases = [
        (at, fault)
        for at, call in enumerate(plain.calls)
        for fault, calls in CALL_FAULTS.items()
        if call in calls
    ]
    for at, fault in cases[:: (step + 3) // 4 if operation is run else step]:
        root = attempt(Fuse(at, fault))
        if operation is not run:
            mend(root, manifest)
        expect_recovery(root, manifest)


@pytest.mark.parametrize("limit", [1000, 10_000])
def test_a_file_too_large_is_named_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    sizes = {"rows": 4096, "chunk_rows": 64, "shard_rows": 2048}
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        with pytest.raises(StorageError, match="File too large"):
            fill(make_cache(tmp_path, **sizes))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    path = tmp_path / make_manifest(**sizes).directory
    assert not any((path / "tmp").iterdir()) and not any(path.glob("rows/*/c/*"))
    cache = make_cache(tmp_path, **sizes)
    fill(cache)
    assert CacheReader(cache).rows == 4096 and verify_cache(cache.place).faults == ()
