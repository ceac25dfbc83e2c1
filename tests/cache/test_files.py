import os
from pathlib import Path

import pytest

from cache.errors import StorageError
from cache.stores.files import LocalFiles, make_directory


def test_a_file_of_any_size_is_read_up_to_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    assert LocalFiles(tmp_path).read("sparse", 10) == bytes(11)


def test_what_a_killed_writer_left_is_discarded_whole_and_in_parts(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    partial = f"tmp/a.b.{'0' * 32}.partial"
    files.write({"a/b": b"", "a/bc": b"", partial: b"", "c/d": b""})
    files.discard("a/b")
    files.discard("c")
    assert sorted(path for path, _ in files.walk()) == ["a/bc"]


def test_a_refusing_file_system_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write a"):
        LocalFiles(tmp_path / "file").write({"a": b""})
    with pytest.raises(StorageError, match="cannot read"):
        LocalFiles(tmp_path).read(".", 1)
    with pytest.raises(StorageError, match="cannot make"):
        make_directory(tmp_path / "file" / "a" / "b")


def test_every_name_is_synced_after_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(tmp_path):
            synced.append(str(path.relative_to(tmp_path)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files = LocalFiles(tmp_path / "root")
    files.write({"a/b": b"x"})
    assert synced[0].startswith("root/tmp/a.b.")
    assert synced[1:] == ["root/a", "root", "."]
    synced.clear()
    files.write({"a/c": b"x", "a/d": b"x"})
    assert [name for name in synced if "tmp" not in name] == ["root/a"]
    synced.clear()
    assert not files.put_if_absent("a/c", b"y")
    assert synced[-1] == "root/a"
    synced.clear()
    make_directory(tmp_path / "x" / "y")
    assert synced == ["x", "."]


def test_a_write_never_shows_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = LocalFiles(tmp_path)
    files.write({"a": b"old"})

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        files.write({"a": b"newer"})
    assert files.read("a", 10) == b"old"
    assert files.names("tmp") == []
