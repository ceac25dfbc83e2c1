import multiprocessing
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from store_worker import (
    ATTACHMENTS,
    fill,
    inside,
    list_caches,
    make_cache,
    make_columns,
    make_manifest,
    tree,
)

from cache.directory import Cache
from cache.errors import DamageError, ForeignError, Hint, ManifestError
from cache.opening import create_or_open, open_cache
from cache.reader import CacheReader
from cache.verification import verify_cache


def test_a_new_cache_is_empty_and_knows_what_it_is_of(tmp_path: Path) -> None:
    manifest = make_manifest()
    cache = create_or_open(tmp_path / "a" / "root", manifest, lambda kept: ATTACHMENTS)
    assert cache.place.path == tmp_path / "a" / "root" / manifest.fingerprint[:32]
    assert cache.fingerprint == manifest.fingerprint
    assert cache.manifest.inputs == manifest.inputs
    assert datetime.now(UTC) - datetime.fromisoformat(cache.manifest.created) < timedelta(minutes=5)
    assert (cache.shards, cache.committed(), cache.is_complete) == (10, [], False)
    assert cache.rows_of(9) == range(288, 300)
    assert cache.read_attachment("words.json") == ATTACHMENTS["words.json"]
    with pytest.raises(ManifestError, match=r"no attachment '\.\./manifest\.json'"):
        cache.read_attachment("../manifest.json")
    assert inside(cache.place.path) == ["attachments", "claims", "manifest.json", "rows", "tmp"]
    assert inside(cache.place.path / "tmp") == []


def test_a_full_cache_is_read_by_zarr_alone(whole: Cache) -> None:
    assert whole.is_complete
    group = zarr.open_group(whole.place.path / "rows", mode="r")
    assert group.attrs["fingerprint"] == whole.fingerprint
    assert sorted(group.array_keys()) == sorted(whole.layout.columns)
    for shard in range(10):
        rows = whole.rows_of(shard)
        for name, values in make_columns(whole, shard).items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            assert array.shape[0] == 300
            np.testing.assert_array_equal(np.asarray(array[rows.start : rows.stop]), values)


def create_slowly(root: Path, calls: Any) -> None:
    def attachments(kept: object) -> Mapping[str, bytes]:
        calls.put(os.getpid())
        time.sleep(0.3)
        return ATTACHMENTS

    create_or_open(root, make_manifest(), attachments)


def test_of_creators_at_once_one_creates_and_the_others_open(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    calls = context.SimpleQueue()
    processes = [context.Process(target=create_slowly, args=(tmp_path, calls)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert calls.get() and calls.empty()
    open_cache(tmp_path / make_manifest().directory).check_metadata()


def test_a_creator_that_fails_leaves_nothing_that_opens(tmp_path: Path) -> None:
    def fails(kept: object) -> Mapping[str, bytes]:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        create_or_open(tmp_path, make_manifest(), fails)
    with pytest.raises(ManifestError, match="not a cache"):
        open_cache(tmp_path / make_manifest().directory)
    with pytest.raises(ManifestError, match="attachment name"):
        create_or_open(tmp_path, make_manifest(), lambda kept: {"../x": b""})
    assert make_cache(tmp_path).committed() == []


def never(kept: object) -> Mapping[str, bytes]:
    raise AssertionError("nothing of it is missing")


def test_a_lost_manifest_is_made_again_and_the_rows_stay_but_no_other_caches(
    tmp_path: Path,
) -> None:
    cache, other = make_cache(tmp_path), make_cache(tmp_path, seed=1)
    fill(cache, 3), fill(other, 1)
    whole = tree(cache.place.path)
    records = {path: path.read_bytes() for path in (cache.place.path / "commits").iterdir()}
    (cache.place.path / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="has commit records, but it has no manifest"):
        open_cache(cache.place.path)
    again = make_cache(tmp_path)
    assert again.committed() == [0, 1, 2]
    assert tree(again.place.path) == whole
    assert all(path.read_bytes() == data for path, data in records.items())
    (cache.place.path / "manifest.json").unlink()
    shutil.rmtree(cache.place.path / "attachments")
    shutil.copy(other.place.path / "commits" / "000000.json", cache.place.path / "commits")
    again = make_cache(tmp_path)
    assert again.read_attachment("table.bin") == ATTACHMENTS["table.bin"]
    reader = CacheReader(again, partial=True)
    with pytest.raises(DamageError, match="of another cache"):
        reader.read_shard(0)


def test_without_a_manifest_nobody_chooses_between_two_attachments(full: Cache) -> None:
    (full.place.path / "manifest.json").unlink()
    table = full.place.path / "attachments" / "table.bin"
    table.write_bytes(b"rows may rest on this")
    before = tree(full.place.path)
    with pytest.raises(ManifestError, match=r"table\.bin is not what is made now.*remove the file"):
        make_cache(full.place.path.parent)
    assert tree(full.place.path) == before
    table.unlink()
    assert make_cache(full.place.path.parent).is_complete


def test_a_missing_file_is_made_again_only_as_it_was(mine: Cache, tmp_path: Path) -> None:
    files, manifest = tree(mine.place.path), mine.manifest
    attached = mine.place.path / "attachments"
    (mine.place.path / "rows" / "zarr.json").unlink()
    create_or_open(tmp_path, manifest, never)  # metadata follow from the layout
    shutil.rmtree(attached)
    create_or_open(tmp_path, manifest, lambda kept: ATTACHMENTS)
    assert tree(mine.place.path) == files
    shutil.rmtree(attached)
    for changed in ({"table.bin": b"other"}, {}):
        words = {"words.json": ATTACHMENTS["words.json"]}
        with pytest.raises(ManifestError, match=r"table\.bin is missing and cannot be restored"):
            create_or_open(tmp_path, manifest, lambda kept, new=words | changed: new)
    assert inside(attached) == ["words.json"]
    # What the message says: without its manifest the cache takes the new one.
    (mine.place.path / "manifest.json").unlink()
    new = {**ATTACHMENTS, "table.bin": b"other"}
    again = create_or_open(tmp_path, manifest, lambda kept: new)
    assert (again.committed(), again.read_attachment("table.bin")) == ([0, 1], b"other")


def test_a_damaged_file_is_not_replaced_unsaid(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    for file in ("attachments/table.bin", "rows/zarr.json"):
        (cache.place.path / file).write_bytes(b"damaged")
    create_or_open(tmp_path, make_manifest(), never)
    assert (cache.place.path / "attachments" / "table.bin").read_bytes() == b"damaged"
    (cache.place.path / "manifest.json").write_bytes(b"damaged")
    with pytest.raises(ManifestError, match="not a sound manifest") as caught:
        create_or_open(tmp_path, make_manifest(), never)
    assert (caught.value.hint, caught.value.subject) == (Hint.VERIFY, str(cache.place))
    (cache.place.path / "manifest.json").unlink()
    (cache.place.path / "manifest.json").symlink_to("nowhere")
    with pytest.raises(DamageError, match=r"manifest\.json: something that cannot be read"):
        make_cache(tmp_path)


def test_another_manifest_makes_another_cache_and_a_foreign_one_is_refused(
    full: Cache, tmp_path: Path
) -> None:
    assert create_or_open(tmp_path, make_manifest(), never).is_complete
    cache, other = full, make_cache(tmp_path, seed=1)
    assert other.committed() == []
    with pytest.raises(ForeignError, match="asked for"):
        open_cache(cache.place.path, other.fingerprint)
    shutil.copy(other.place.path / "manifest.json", cache.place.path / "manifest.json")
    with pytest.raises(ForeignError):
        open_cache(cache.place.path)
    with pytest.raises(ForeignError):
        make_cache(tmp_path)


def test_a_list_names_what_is_no_cache(tmp_path: Path) -> None:
    assert list_caches(tmp_path / "nowhere") == []
    done, begun, broken = (make_cache(tmp_path, rows=40, seed=seed) for seed in range(3))
    fill(done)
    fill(begun, 1)
    fill(broken)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "stray").mkdir()
    (broken.place.path / "manifest.json").write_bytes(b"")
    found = {Path(summary["path"]).name: summary for summary in list_caches(tmp_path)}
    assert len(found) == 4
    whole, part = found[done.place.path.name], found[begun.place.path.name]
    assert (whole["committed"], whole["shards"], whole["complete"]) == (2, 2, True)
    assert whole["bytes"] == sum(
        p.stat().st_size for p in done.place.path.rglob("*") if p.is_file()
    )
    assert (part["committed"], part["complete"]) == (1, False)
    assert "sound manifest" in (found[broken.place.path.name]["error"] or "")
    assert "not a cache" in (found["stray"]["error"] or "")
    assert (found["stray"]["fingerprint"], found["stray"]["shards"]) == (None, 0)


def test_a_cache_is_opened_read_and_verified_where_nothing_can_be_written(full: Cache) -> None:
    for name in ("claims", "tmp"):
        shutil.rmtree(full.place.path / name)
    before = {path: path.stat().st_mtime_ns for path in full.place.path.rglob("*")}
    again = open_cache(full.place.path)
    assert again.is_complete and again.live_claims() == []
    assert again.read_attachment("table.bin") == ATTACHMENTS["table.bin"]
    assert len(list(islice(CacheReader(again).stream_slices(8, 1), 50))) == 50
    assert verify_cache(again.place).faults == ()
    assert {path: path.stat().st_mtime_ns for path in full.place.path.rglob("*")} == before
