"""A cache made to harm whoever reads it: every case ends in an error, and in little memory."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lease_worker import worker
from store_worker import SMALL, fill, list_caches, make_cache, read_everything

from cache.directory import Cache
from cache.errors import CacheError, DamageError
from cache.format.documents import seal
from cache.reader import CacheReader
from cache.verification import repair_cache, verify_cache

COLUMN = "rows/seed/c/1"


@contextmanager
def at_most(size: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


WRONG: dict[str, list[Any]] = {
    "shard": [0, True],
    "rows": [[0, 1], "8"],
    "fingerprint": ["0" * 64],
    "format_version": [2],
    "seconds": [-1.0, "1", True],
    "finished": ["now", "2026-01-01T00:00:00"],
    "files": [{}, []],
    "extra": [1],
    "size": [-1, 2**62, 1.5],
    "sha256": ["x"],
}


def test_a_hostile_record_with_a_fitting_checksum_is_refused(mine: Cache) -> None:
    path = mine.place.path / "commits" / "000001.json"
    sealed = path.read_bytes()

    def refuse(change: Callable[[dict[str, Any]], object]) -> None:
        document = json.loads(sealed)
        del document["checksum"]
        assert seal(document) == sealed
        change(document)
        path.write_bytes(seal(document))
        with pytest.raises(DamageError, match=r"000001\.json"):
            CacheReader(mine).read_shard(1)

    for key, values in WRONG.items():
        for value in values:
            if key in ("size", "sha256"):
                refuse(lambda d, key=key, value=value: d["files"][COLUMN].update({key: value}))
            else:
                refuse(lambda d, key=key, value=value: d.update({key: value}))
    refuse(lambda d: d["files"].update({"rows/../../secret": d["files"].pop(COLUMN)}))


def grow(path: Path, size: int) -> None:
    """Make a file that large, which takes no room on the disk."""
    with path.open("r+b") as file:
        file.truncate(size)


FILES = [COLUMN, "commits/000001.json", "manifest.json", "rows/zarr.json", "attachments/table.bin"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_a_hundred_gigabytes_is_not_read(mine: Cache, file: str) -> None:
    grow(mine.place.path / file, 10**11)
    with at_most(3 * 10**7):
        (fault,) = verify_cache(mine.place).faults
        assert fault.file == file
        with pytest.raises(CacheError, match="more than"):
            read_everything(mine.place.path)
        (summary,) = list_caches(mine.place.path.parent)
    assert summary["bytes"] > 10**11


@pytest.mark.parametrize("file", FILES)
def test_pipes_and_devices_are_not_waited_for(mine: Cache, file: str) -> None:
    path = mine.place.path / file
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        make(path)
        report = verify_cache(mine.place)
        assert [fault.file for fault in report.faults] == [file]
        with pytest.raises(CacheError, match="neither a file nor"):
            read_everything(mine.place.path)
    assert file in repair_cache(report)
    assert Path("/dev/zero").exists() and not path.is_symlink()


READ_IN_LITTLE_MEMORY = """
import resource, sys
from cache.opening import open_cache
found = open_cache(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
found.read_attachment("table.bin")
"""


def test_an_attachment_beyond_all_memory_is_an_error(mine: Cache) -> None:
    grow(mine.place.path / "attachments" / "table.bin", 2**40)
    manifest = mine.place.path / "manifest.json"
    document = json.loads(manifest.read_bytes())
    del document["checksum"]
    document["files"]["attachments/table.bin"]["size"] = 2**40
    manifest.write_bytes(seal(document))
    # Where the kernel promises any memory, only a limit makes it refuse.
    with worker(READ_IN_LITTLE_MEMORY, mine.place) as process:
        last = process.communicate()[1].splitlines()[-1]
    assert "StorageError: cannot read attachments/table.bin: there is not memory enough" in last


def test_rows_behind_a_link_are_read_and_records_of_another_cache_refused(
    mine: Cache, tmp_path: Path
) -> None:
    path = mine.place.path / COLUMN
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))
    read_everything(mine.place.path)
    assert verify_cache(mine.place).faults == ()
    stranger = make_cache(tmp_path / "stranger", seed=1, **SMALL)
    fill(stranger)
    commits = mine.place.path / "commits"
    shutil.rmtree(commits)
    commits.symlink_to(stranger.place.path / "commits")
    with pytest.raises(DamageError, match="of another cache"):
        read_everything(mine.place.path)
    report = verify_cache(mine.place)
    assert {fault.file for fault in report.faults} == {"commits/000000.json", "commits/000001.json"}
    with pytest.raises(CacheError, match=r"commits is a link to .*by hand"):
        repair_cache(report)
    read_everything(stranger.place.path)
