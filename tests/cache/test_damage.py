import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from store_worker import fill, make_cache

from cache.documents import seal
from cache.errors import CacheError, DamageError
from cache.reader import CacheReader
from cache.store import Cache


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = make_cache(tmp_path_factory.mktemp("root"))
    fill(cache)
    return cache


@pytest.fixture
def mine(full: Cache, tmp_path: Path) -> Cache:
    """A copy to damage."""
    shutil.copytree(full.place.path, tmp_path / full.place.path.name)
    return make_cache(tmp_path)


FILES = ["rows/seed/c/2", "rows/logits/c/2/0", "rows/tokens/c/2/0", "commits/000002.json"]


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_anywhere_in_a_shard_is_refused(mine: Cache, file: str) -> None:
    path = mine.place.path / file
    data = path.read_bytes()
    reader = CacheReader(mine)
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(DamageError) as caught:
            reader.read_shard(2)
        assert (caught.value.shard, caught.value.file) == (2, file)
    assert f"shard 2: {path}: " in str(caught.value)
    assert f"run `pipeline cache verify {mine.place.path}`" in str(caught.value)
    reader.read_shard(1)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_emptied_lengthened_or_gone_is_refused(mine: Cache, file: str) -> None:
    path = mine.place.path / file
    data = path.read_bytes()
    reader = CacheReader(mine)
    for changed in (data[:-1], data[: len(data) // 2], b"", data + b"\0", bytes(len(data))):
        path.write_bytes(changed)
        with pytest.raises(DamageError):
            reader.read_shard(2)
    path.unlink()
    with pytest.raises(DamageError, match="missing"):
        reader.read_shard(2)
    path.mkdir()
    with pytest.raises(CacheError):
        reader.read_shard(2)


def test_files_swapped_between_shards_or_caches_are_refused(mine: Cache, tmp_path: Path) -> None:
    other = make_cache(tmp_path / "other", seed=1)
    fill(other)
    for file in FILES:
        kept = (mine.place.path / file).read_bytes()
        from_other = (other.place.path / file).read_bytes()
        from_next = (mine.place.path / file.replace("2", "3", 1)).read_bytes()
        for foreign in (from_other, from_next):
            (mine.place.path / file).write_bytes(foreign)
            if foreign != kept:  # the rows of the two caches are the same, their records not
                with pytest.raises(DamageError):
                    CacheReader(mine).read_shard(2)
        (mine.place.path / file).write_bytes(kept)
    CacheReader(mine).read_shard(2)


@pytest.mark.parametrize("file", ["rows/zarr.json", "rows/logits/zarr.json"])
def test_changed_metadata_is_refused(mine: Cache, file: str) -> None:
    data = (mine.place.path / file).read_bytes()
    (mine.place.path / file).write_bytes(data.replace(b"3", b"4", 1))
    with pytest.raises(DamageError, match=r"zarr\.json"):
        CacheReader(mine)


@pytest.mark.parametrize(
    "change",
    [
        {"shard": 3},
        {"shard": True},
        {"rows": [0, 1]},
        {"rows": "64"},
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
    record = mine.record(2)
    document: dict[str, Any] = {
        "format_version": 1,
        "fingerprint": mine.fingerprint,
        "shard": 2,
        "rows": [64, 96],
        "files": {path: info.to_document() for path, info in record.files.items()},
        "seconds": 0.5,
        "finished": record.finished.isoformat(),
    }
    path = mine.place.path / "commits" / "000002.json"
    assert seal(document) == path.read_bytes()
    for key, value in change.items():
        if key == "path":
            document["files"][value] = document["files"].pop(FILES[0])
        elif key in ("size", "sha256"):
            document["files"][FILES[0]][key] = value
        else:
            document[key] = value
    path.write_bytes(seal(document))
    with pytest.raises(DamageError, match=r"000002\.json"):
        CacheReader(mine).read_shard(2)


def test_a_hundred_megabytes_of_json_are_not_read(mine: Cache) -> None:
    with (mine.place.path / "commits" / "000002.json").open("wb") as file:
        file.truncate(10**8)
    tracemalloc.start()
    with pytest.raises(DamageError, match="more than"):
        mine.record(2)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_records_of_no_shard_are_not_counted(mine: Cache) -> None:
    for name in ("000010.json", "0000001.json", "000001.json.bak", "x", "-00001.json"):
        (mine.place.path / "commits" / name).write_bytes(b"")
    assert mine.committed() == list(range(10))
