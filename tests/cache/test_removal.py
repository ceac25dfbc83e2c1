"""Removing a cache: whole, in the right order, never while it is used and never anything else."""

import os
import shutil
import threading
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
from contract import damage, mend, small
from store_worker import SMALL, fill, inside, list_caches, make_cache, make_manifest

from cache.directory import Cache
from cache.errors import CacheError, ClaimError, ManifestError, PlaceError, StorageError
from cache.removal import remove_cache
from cache.stores.places import parse_place
from cache.verification import verify_cache


@pytest.fixture
def full(tmp_path: Path) -> Cache:
    found = make_cache(tmp_path / "root", **SMALL)
    fill(found)
    return found


PARTS = ("manifest.json", "claims", "commits", "attachments", "tmp", "rows")


@pytest.mark.parametrize("lost", [(), PARTS[:1], PARTS[:-1], PARTS])
def test_a_cache_in_any_state_is_removed(full: Cache, lost: tuple[str, ...]) -> None:
    for name in ("manifest.json", "commits/000001.json"):
        (full.place.path / name).unlink()
        (full.place.path / name / "x").mkdir(parents=True)
    for name in lost:
        shutil.rmtree(full.place.path / name)
    remove_cache(str(full.place))
    assert inside(full.place.path.parent) == []


def test_a_copy_is_removed_too_but_files_that_are_no_caches_stay(
    full: Cache, tmp_path: Path
) -> None:
    shutil.copytree(full.place.path, tmp_path / "copy")
    remove_cache(tmp_path / "copy")
    assert inside(tmp_path) == ["root"]
    assert verify_cache(full.place).faults == ()
    (full.place.path / "notes.txt").write_text("mine")
    remove_cache(full.place)
    assert inside(full.place.path) == ["notes.txt"]


def test_a_cache_in_use_stays(full: Cache) -> None:
    (full.place.path / "commits" / "000001.json").unlink()
    with full.claim_next() or pytest.fail("nothing to claim"):
        before = set(full.files.walk())
        with pytest.raises(ClaimError, match=f"is in use: process {os.getpid()} "):
            remove_cache(full.place)
        assert before <= set(full.files.walk())


def test_a_directory_that_is_no_cache_stays(full: Cache, tmp_path: Path) -> None:
    home, digits = tmp_path / "home", tmp_path / ("0" * 32)
    for directory, name in product((home, digits), ("rows", "tmp", "work")):
        (directory / name).mkdir(parents=True)
        (directory / name / "precious").write_text("")
    for place, data in [
        (home, None),
        (home, b"{}"),
        (home, (full.place.path / "manifest.json").read_bytes()),
        (digits, None),
        (digits, b"{}"),
        (tmp_path, None),
        (tmp_path / "nowhere", None),
        (tmp_path / ("1" * 32), None),
    ]:
        if data is not None:
            (place / "manifest.json").write_bytes(data)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ManifestError, match="nothing was removed"):
            remove_cache(place)
        assert sorted(tmp_path.rglob("*")) == before


def test_what_lies_behind_a_link_stays(full: Cache, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(full.place.path)
    with pytest.raises(PlaceError, match=r"is a link to .*/root/"):
        remove_cache(link)
    assert verify_cache(link).committed == full.shards
    for name in ("rows", "commits"):
        (full.place.path / name).rename(tmp_path / name)
        (full.place.path / name).symlink_to(tmp_path / name)
    remove_cache(full.place)
    assert inside(tmp_path) == ["commits", "link", "root", "rows"]
    assert len(inside(tmp_path / "commits")) == full.shards


def test_who_creates_it_anew_meanwhile_loses_nothing(tmp_path: Path) -> None:
    stop = threading.Event()

    def create() -> None:
        while not stop.is_set():
            with suppress(CacheError):  # it went away under its feet, and says so
                fill(make_cache(tmp_path, **SMALL))

    thread = threading.Thread(target=create)
    thread.start()
    removed = 0
    try:
        while removed < 20 and thread.is_alive():
            with suppress(ManifestError, ClaimError, StorageError):
                remove_cache(tmp_path / make_manifest(**SMALL).directory)
                removed += 1
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join()
    fill(make_cache(tmp_path, **SMALL))
    (summary,) = list_caches(tmp_path)
    assert summary["complete"]
    assert verify_cache(summary["path"]).faults == ()


def test_a_real_object_store_is_repaired_and_removed_as_a_directory_is(s3: str) -> None:
    root, manifest = parse_place(s3), small(3)
    damage(root, manifest)
    place = root / manifest.directory
    report = verify_cache(str(place))
    assert {(fault.file, fault.shard) for fault in report.faults} == {
        ("attachments/words.json", None),
        ("rows/seed/zarr.json", None),
        ("rows/tokens/c/0/0", 0),
        ("commits/000001.json", 1),
    }
    mend(root, manifest)
    report = verify_cache(place)
    assert (report.committed, report.faults, report.strays) == (3, (), ())
    remove_cache(place)
    assert list(place.open_files().walk()) == []
    with pytest.raises(ManifestError, match="nothing was removed"):
        remove_cache(place)
