"""A cache made to harm whoever reads it: every case ends in an error, and in little memory."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from store_worker import SMALL, fill, make_cache, read_everything

import cache
from cache.directory import Cache
from cache.errors import CacheError, DamageError, ManifestError
from cache.format.documents import seal
from cache.opening import list_caches
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


@pytest.mark.parametrize(
    "change",
    [
        {"shard": 0},
        {"shard": True},
        {"rows": [0, 1]},
        {"rows": "8"},
        {"fingerprint": "0" * 64},
        {"format_version": 2},
        {"seconds": -1.0},
        {"seconds": "1"},
        {"seconds": True},
        {"finished": "now"},
        {"finished": "2026-01-01T00:00:00"},
        {"files": {}},
        {"files": []},
        {"extra": 1},
        {"size": -1},
        {"size": 2**62},
        {"size": 1.5},
        {"sha256": "x"},
        {"path": "rows/../../secret"},
    ],
)
def test_a_hostile_record_with_a_fitting_checksum_is_refused(
    mine: Cache, change: dict[str, Any]
) -> None:
    record = mine.record(1)
    document: dict[str, Any] = {
        "format_version": 1,
        "fingerprint": mine.fingerprint,
        "shard": 1,
        "rows": [8, 12],
        "files": {path: asdict(info) for path, info in record.files.items()},
        "seconds": 0.5,
        "finished": record.finished.isoformat(),
    }
    path = mine.place.path / "commits" / "000001.json"
    assert seal(document) == path.read_bytes()
    for key, value in change.items():
        if key == "path":
            document["files"][value] = document["files"].pop(COLUMN)
        elif key in ("size", "sha256"):
            document["files"][COLUMN][key] = value
        else:
            document[key] = value
    path.write_bytes(seal(document))
    with pytest.raises(DamageError, match=r"000001\.json"):
        CacheReader(mine).read_shard(1)


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
        with pytest.raises(CacheError):
            read_everything(mine.place.path)
        (summary,) = list_caches(mine.place.path.parent)
    assert summary.bytes > 10**11


@pytest.mark.parametrize("file", FILES)
def test_pipes_and_devices_are_not_waited_for(mine: Cache, file: str) -> None:
    path = mine.place.path / file
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        make(path)
        (fault,) = verify_cache(mine.place).faults
        assert (fault.file, "neither a file nor" in fault.fault) == (file, True)
        with pytest.raises(CacheError, match="neither a file nor"):
            read_everything(mine.place.path)
    assert file in repair_cache(verify_cache(mine.place))
    assert not path.is_symlink()
    assert Path("/dev/zero").exists()


def reseal(cache: Cache, change: Callable[[Any], Any]) -> None:
    path = cache.place.path / "manifest.json"
    document = json.loads(path.read_bytes())
    del document["checksum"]
    change(document)
    path.write_bytes(seal(document))


def test_a_manifest_that_promises_huge_files_is_not_believed(mine: Cache) -> None:
    grow(mine.place.path / "rows" / "zarr.json", 10**11)
    reseal(mine, lambda document: document["files"]["rows/zarr.json"].update(size=10**11))
    with at_most(10**7):
        with pytest.raises(ManifestError, match=r"rows/zarr\.json\.size"):
            read_everything(mine.place.path)
        assert verify_cache(mine.place).cache is None


READ_IN_LITTLE_MEMORY = """
import resource, sys
from cache.opening import open_cache
found = open_cache(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
found.read_attachment("table.bin")
"""


def test_an_attachment_beyond_all_memory_is_an_error(mine: Cache) -> None:
    grow(mine.place.path / "attachments" / "table.bin", 2**40)
    reseal(mine, lambda document: document["files"]["attachments/table.bin"].update(size=2**40))
    # Where the kernel promises any memory, only a limit makes it refuse.
    command = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(mine.place)]
    package = Path(cache.__file__).parent.parent
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, check=False
    )
    last = done.stderr.decode().splitlines()[-1]
    assert "StorageError: cannot read attachments/table.bin: there is not memory enough" in last


def test_a_hundred_megabytes_of_json_are_not_parsed(mine: Cache) -> None:
    for file in ("manifest.json", "commits/000001.json"):
        path = mine.place.path / file
        kept = path.read_bytes()
        path.write_bytes(b'{"a": [' + b"[], " * (25 * 10**6) + b"1]}")
        with at_most(3 * 10**7), pytest.raises(CacheError, match="more than"):
            read_everything(mine.place.path)
        path.write_bytes(kept)


def test_rows_behind_a_link_are_checked_as_any_others(mine: Cache) -> None:
    path = mine.place.path / COLUMN
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))
    read_everything(mine.place.path)
    assert verify_cache(mine.place).faults == ()
    path.unlink()
    path.symlink_to("/etc/passwd")
    (fault,) = verify_cache(mine.place).faults
    assert (fault.file, fault.shard) == (COLUMN, 1)
    with pytest.raises(DamageError):
        read_everything(mine.place.path)


def test_records_behind_a_link_are_of_this_cache_or_refused(mine: Cache, tmp_path: Path) -> None:
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


def test_records_of_no_shard_are_not_counted(mine: Cache) -> None:
    for name in ("000002.json", "0000001.json", "000001.json.bak", "x", "-00001.json"):
        (mine.place.path / "commits" / name).write_bytes(b"")
    assert mine.committed() == [0, 1]
