"""What verification says of caches in every state, and that repair removes that and no more."""

import errno
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from store_worker import fill, flip, make_cache, make_columns, tree

import cache.directory
from cache.directory import Cache
from cache.errors import ManifestError, StorageError, VersionError
from cache.format.documents import seal
from cache.reader import CacheReader
from cache.removal import remove_cache
from cache.stores.files import LocalFiles
from cache.verification import Fault, Report, repair_cache, verify_cache


def refuse(*_: object) -> None:
    raise StorageError("read-only file system")


def test_shards_that_are_not_there_yet_are_no_damage_and_each_is_read_once(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ManifestError, match="not a cache"):
            verify_cache(place)
    begun = make_cache(tmp_path)
    for count in (0, 4):
        fill(begun, count)
        steps: list[int] = []
        report = verify_cache(str(begun.place), steps.append)
        assert (report.committed, report.faults, report.strays) == (count, (), ())
        assert (len(steps), report.bytes) == (count, sum(size for _, size in begun.files.walk()))
        assert repair_cache(report) == []


def test_what_a_live_process_writes_is_neither_damage_nor_stray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = make_cache(tmp_path)
    fill(begun, 2)
    strays = ("rows/seed/c/2", "tmp/rows.seed.c.2." + 32 * "0" + ".partial")
    with begun.claim_next() or pytest.fail("nothing to claim"):
        begun.files.write(dict.fromkeys(strays, b"begun"))
        report = verify_cache(begun.place)
        assert (report.committed, report.faults, report.strays) == (2, (), ())
        with monkeypatch.context() as patch:  # where nothing can be locked, nobody is alive
            patch.setattr("cache.stores.claims.LocalClaims.live", refuse)
            assert verify_cache(begun.place).strays == strays
    # As far as others can tell, it was killed.
    report = verify_cache(begun.place)
    assert (report.faults, report.strays) == ((), strays)
    assert repair_cache(report) == []
    fill(begun)
    assert verify_cache(begun.place).strays == ()


def test_files_that_belong_to_nothing_are_named_and_left(full: Cache) -> None:
    commits = ("-00001.json", "0000001.json", "000001.json.bak", "000010.json", "1.json")
    columns = ("other/c/0", "seed/c/00", "seed/c/10", "seed/c/x")
    strays = ("attachments/other", *(f"commits/{name}" for name in commits), "notes.txt")
    strays += (*(f"rows/{name}" for name in columns), "tmp/anything")
    full.files.write(dict.fromkeys(strays, b""))
    (full.place.path / "tmp\\x").touch()  # as something from Windows would leave
    strays += ("tmp\\x",)
    report = verify_cache(full.place)
    assert (report.strays, report.faults) == (strays, ())
    assert repair_cache(report) == []
    assert verify_cache(full.place).strays == strays
    assert full.committed() == list(range(10))
    assert CacheReader(full).rows == 300


def test_what_is_committed_or_freed_meanwhile_is_no_fault(tmp_path: Path) -> None:
    begun = make_cache(tmp_path)
    fill(begun, 4)

    def others(count: int) -> None:
        fill(begun, 1)
        (begun.place.path / "commits" / "000003.json").unlink(missing_ok=True)

    report = verify_cache(begun.place, others)
    assert (report.committed, report.faults) == (3, ())


def test_a_shard_repaired_while_it_is_looked_at_is_looked_at_again(
    full: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = full.place.path
    flip(root / "rows/length/c/4")
    read = LocalFiles.read

    def repair_first(files: LocalFiles, path: str, limit: int) -> bytes | None:
        data = read(files, path, limit)
        if path == "rows/length/c/4":
            monkeypatch.undo()
            (root / "commits/000004.json").unlink()
            fill(full)
        return data

    monkeypatch.setattr(LocalFiles, "read", repair_first)
    report = verify_cache(root)
    assert (report.committed, report.faults) == (10, ())


def test_a_storage_that_refuses_is_not_taken_for_damage(
    full: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(full.place.path / "rows/seed/c/1")
    damaged = verify_cache(full.place)
    read, kind = LocalFiles.read, errno.EACCES

    def fail(files: LocalFiles, path: str, limit: int) -> bytes | None:
        if not path.startswith("rows/length/c"):
            return read(files, path, limit)
        raise StorageError(f"cannot read {path}") from OSError(kind, "so it is")

    monkeypatch.setattr(LocalFiles, "read", fail)
    for action in (lambda: verify_cache(full.place), lambda: repair_cache(damaged)):
        with pytest.raises(StorageError, match="rows/length/c/"):
            action()
    assert len(full.committed()) == 10
    kind = errno.EIO  # a bad sector, which is this file's
    report = verify_cache(full.place)
    assert len(report.faults) == 11
    assert Fault("rows/length/c/9", "cannot be read (so it is)", 9) in report.faults


def test_values_that_are_not_finite_are_found_whatever_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = make_cache(tmp_path)
    monkeypatch.setattr(cache.directory, "_check_columns", lambda *_: None)
    fill(odd, 1)
    with odd.claim_next() or pytest.fail("nothing to claim") as claim:
        columns = make_columns(odd, 1)
        columns["logits"][5, 1] = np.nan
        odd.commit(claim, columns, 1.0)
    (fault,) = verify_cache(odd.place).faults
    assert fault == Fault("rows/logits/c/1/0", "row 37 is NaN or infinite", 1)


def test_one_column_is_held_at_a_time(tmp_path: Path) -> None:
    large = make_cache(tmp_path, rows=2**19, chunk_rows=64, shard_rows=2**17, tokens=None)
    fill(large)
    tracemalloc.start()
    report = verify_cache(large.place)
    assert report.faults == ()
    # A column of a shard is 1 MiB, of which decoding makes a copy; a shard is 3 MiB, all 12.
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_what_was_repaired_in_the_meantime_stays(full: Cache) -> None:
    root = full.place.path
    kept = {path: (root / path).read_bytes() for path in ("rows/seed/c/1", "attachments/table.bin")}
    for path in kept:
        flip(root / path)
    (root / "rows/length/c/2").unlink()
    report = verify_cache(root)
    assert {fault.shard for fault in report.faults} == {None, 1, 2}
    for path, data in kept.items():
        (root / path).write_bytes(data)
    (root / "commits/000002.json").unlink()
    with full.claim_next() or pytest.fail("nothing to claim"):
        assert repair_cache(report) == []
    assert len(full.committed()) == 9


@pytest.mark.parametrize("path", ["rows/logits/c/1", "rows/length", "commits", "attachments"])
def test_a_file_where_a_directory_must_be_is_found_and_removed(full: Cache, path: str) -> None:
    root = full.place.path
    whole = tree(root)
    shutil.rmtree(root / path)
    (root / path).write_bytes(b"")
    report = verify_cache(root)
    assert Fault(path, "a file where a directory must be", None) in report.faults
    assert path in repair_cache(report)
    fill(make_cache(root.parent))
    # Someone with the same report comes too late, and must not remove what is there by now.
    assert path not in repair_cache(report)
    assert tree(root) == whole
    assert verify_cache(root).faults == ()


def test_another_version_is_left_alone_and_a_changed_digit_is_damage(full: Cache) -> None:
    root = full.place.path
    path = root / "manifest.json"
    document = json.loads(path.read_bytes())
    changed = json.dumps(document | {"format_version": 3}, indent=2).encode() + b"\n"
    del document["checksum"]
    path.write_bytes(seal(document | {"format_version": 2}))
    with pytest.raises(VersionError, match="version 2 is of a newer release"):
        verify_cache(root)
    with pytest.raises(VersionError):
        repair_cache(Report(full.place, None, 10, (Fault("manifest.json", "", None),), ()))
    with pytest.raises(VersionError, match="version 2"):
        remove_cache(root)
    path.write_bytes(changed)
    (fault,) = verify_cache(root).faults
    assert "its format_version was changed" in fault.fault
    assert repair_cache(verify_cache(root)) == ["manifest.json"]
    assert len(full.committed()) == 10
