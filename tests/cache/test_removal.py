"""Removing a cache: whole, in the right order, never while it is used and never anything else."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from store_worker import fill, inside, make_cache, make_manifest

from cache.directory import Cache
from cache.errors import (
    CacheError,
    ClaimError,
    ManifestError,
    PlaceError,
    StorageError,
    VersionError,
)
from cache.format.documents import seal
from cache.opening import list_caches
from cache.removal import remove_cache
from cache.stores.places import parse_place
from cache.verification import repair_cache, verify_cache

SMALL = {"rows": 20, "tokens": 3}


@pytest.fixture
def full(tmp_path: Path) -> Cache:
    found = make_cache(tmp_path / "root", **SMALL, shard_rows=8)
    fill(found)
    return found


def spoil(path: Path) -> None:
    path.write_bytes(b"{")


def lose(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def put_a_directory_there(path: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


PARTS = ("manifest.json", "claims", "commits", "attachments", "tmp", "rows")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (spoil, ()),
        (spoil, PARTS[:1]),
        (lose, PARTS[:1]),
        (lose, PARTS[:-1]),
        (lose, PARTS),
        (put_a_directory_there, ("manifest.json", "commits/000001.json")),
    ],
)
def test_a_cache_in_any_state_is_removed(
    full: Cache, change: Callable[[Path], None], names: tuple[str, ...]
) -> None:
    for name in names:
        change(full.place.path / name)
    remove_cache(str(full.place))
    assert inside(full.place.path.parent) == []


def test_a_copy_under_another_name_is_removed_too(full: Cache, tmp_path: Path) -> None:
    shutil.copytree(full.place.path, tmp_path / "copy")
    remove_cache(tmp_path / "copy")
    assert inside(tmp_path) == ["root"]
    assert verify_cache(full.place).faults == ()


def test_files_that_are_no_caches_stay(full: Cache) -> None:
    (full.place.path / "notes.txt").write_text("mine")
    remove_cache(full.place)
    assert inside(full.place.path) == ["notes.txt"]
    with pytest.raises(ManifestError, match="not a cache"):
        remove_cache(full.place)


def test_a_cache_in_use_stays(full: Cache) -> None:
    (full.place.path / "commits" / "000001.json").unlink()
    with full.claim_next() or pytest.fail("nothing to claim"):
        before = set(full.files.walk())
        with pytest.raises(ClaimError, match=f"is in use: process {os.getpid()} "):
            remove_cache(full.place)
        assert before <= set(full.files.walk())
    remove_cache(full.place)


def make_home(home: Path) -> Path:
    for name in ("rows", "tmp", "work"):
        (home / name).mkdir(parents=True)
        (home / name / "precious").write_text("")
    return home


def test_a_directory_that_is_no_cache_stays(full: Cache, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    digits = make_home(tmp_path / ("0" * 32))
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


def test_another_version_stays(full: Cache) -> None:
    path = full.place.path / "manifest.json"
    document = json.loads(path.read_bytes())
    del document["checksum"]
    path.write_bytes(seal({**document, "format_version": 2}))
    with pytest.raises(VersionError, match="version 2"):
        remove_cache(full.place)
    assert len(full.committed()) == full.shards


def test_what_lies_behind_a_link_stays(full: Cache, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(full.place.path)
    with pytest.raises(PlaceError, match=r"is a link to .*/root/"):
        remove_cache(link)
    assert verify_cache(link).committed == full.shards
    elsewhere = tmp_path / "elsewhere"
    for name in ("rows", "commits"):
        (full.place.path / name).rename(elsewhere.with_name(name))
        (full.place.path / name).symlink_to(elsewhere.with_name(name))
    remove_cache(full.place)
    assert inside(tmp_path) == ["commits", "link", "root", "rows"]
    assert len(inside(tmp_path / "commits")) == full.shards


def test_killed_at_any_instant_it_leaves_an_honest_cache_that_can_be_removed(
    full: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[int, bool]] = []
    for last in range(1000):
        root = tmp_path / f"{last:03d}" / full.place.path.name
        shutil.copytree(full.place.path, root)
        with monkeypatch.context() as patch:
            is_done = die_after(last, patch)
            with suppress(Killed):
                remove_cache(root)
            if is_done():
                break
        if root.exists():
            if (root / "manifest.json").exists():
                report = verify_cache(root)
                assert all(fault.shard is None for fault in report.faults)
                states.append((report.committed, True))
            else:
                assert not (root / "commits").exists()
                states.append((0, False))
            remove_cache(root)
        assert not root.exists()
    assert states == sorted(states, reverse=True)
    assert len(states) > 30
    assert {committed for committed, _ in states} == set(range(full.shards + 1))


class Killed(BaseException):
    """What no handler takes for an error."""


def die_after(last: int, patch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Let so many removals happen and none after; tells whether there were no more."""
    count = 0

    def counting(real: Callable[..., None]) -> Callable[..., None]:
        def remove(*arguments: object, **options: object) -> None:
            nonlocal count
            count += 1
            if count > last:
                raise Killed
            real(*arguments, **options)

        return remove

    for name in ("unlink", "rmdir"):
        patch.setattr(os, name, counting(getattr(os, name)))
    return lambda: count <= last


def test_a_removal_that_the_storage_refuses_says_so(
    full: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StorageError, match="cannot remove commits: Permission denied"):
        remove_cache(full.place)


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
    assert summary.is_complete
    assert verify_cache(summary.place).faults == ()


def test_in_an_object_store_all_of_it_is_the_same(s3: str) -> None:
    cache = make_cache(parse_place(s3), **SMALL, shard_rows=8)
    fill(cache)
    files = cache.files
    files.write({"rows/seed/c/1": b"x", "attachments/words.json": b""})
    files.remove("rows/length/c/0")
    files.write({"rows/seed/c/7": b"stray"})
    report = verify_cache(str(cache.place))
    assert {(fault.file, fault.shard) for fault in report.faults} == {
        ("attachments/words.json", None),
        ("rows/seed/c/1", 1),
        ("rows/length/c/0", 0),
    }
    assert report.strays == ("rows/seed/c/7",)
    removed = repair_cache(report)
    assert removed == [
        "attachments/words.json",
        "commits/000000.json",
        "rows/seed/c/1",
        "commits/000001.json",
    ]
    cache = make_cache(parse_place(s3), **SMALL, shard_rows=8)
    fill(cache)
    assert verify_cache(cache.place).faults == ()
    files.write({"manifest.json": b"{"})
    assert repair_cache(verify_cache(cache.place)) == ["manifest.json"]
    fill(make_cache(parse_place(s3), **SMALL, shard_rows=8))
    report = verify_cache(cache.place)
    assert (report.committed, report.faults) == (cache.shards, ())
    remove_cache(cache.place)
    assert list(files.walk()) == []
    with pytest.raises(ManifestError, match="nothing was removed"):
        remove_cache(cache.place)
