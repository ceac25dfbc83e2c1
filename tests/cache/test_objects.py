"""Files, in a directory and in object stores alike; then what is peculiar to one of them."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from object_server import ask
from obstore.store import MemoryStore

import cache.stores.bucket
from cache.errors import ClaimError, StorageError
from cache.stores.bucket import Bucket, open_bucket
from cache.stores.files import LocalFiles, make_directory
from cache.stores.interface import Files


def in_memory() -> Bucket:
    store = MemoryStore()
    return Bucket("s3://memory/here", lambda seconds: store)


@pytest.fixture(params=["local", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "s3":
        return open_bucket(request.getfixturevalue("s3"))
    return LocalFiles(tmp_path / "root") if request.param == "local" else in_memory()


def contents(files: Files) -> dict[str, int]:
    return dict(files.walk())


def test_what_is_written_is_read_replaced_named_and_removed(files: Files) -> None:
    files.write({"a/b/c": b"one", "d": b"", "ü %20+#": b"x"})
    assert [files.read(path, 10) for path in ("a/b/c", "d", "ü %20+#")] == [b"one", b"", b"x"]
    files.write({"a/b/c": b"other", "a/y": b"", "ab/z": b""})
    assert (files.read("a/b/c", 10), files.size("a/b/c")) == (b"other", 5)
    assert contents(files) == {"a/b/c": 5, "d": 0, "ü %20+#": 1, "a/y": 0, "ab/z": 0}
    assert files.names("a") == ["b", "y"]
    assert set(files.names()) - {"tmp"} == {"a", "ab", "d", "ü %20+#"}
    files.remove("a/y")
    files.clear("a")
    assert contents(files) == {"d": 0, "ü %20+#": 1, "ab/z": 0}
    files.clear("")
    assert contents(files) == {}


def test_no_more_is_read_than_asked_for_and_one_byte(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.bucket, "PART", 1000)
    data = bytes(range(256)) * 20
    files.write({"a": data})
    for limit in (0, 1, 10, 999, 1000, 1001, 2500, 5118, 5119, 5120, 10**9):
        assert files.read("a", limit) == data[: limit + 1]


def test_what_is_not_there(files: Files) -> None:
    found = (files.read("a", 1), files.size("a"), files.names("a"), files.names())
    assert found == (None, None, [], [])
    files.remove("a")
    files.clear("a")
    files.clear("")
    files.discard("a")
    files.write({"a": b""})
    assert (files.read("a/b", 1), files.size("a/b"), files.names("a/b")) == (None, None, [])


def test_put_if_absent_has_one_winner(files: Files) -> None:
    barrier = threading.Barrier(8)

    def put(number: int) -> bool:
        barrier.wait()
        return files.put_if_absent("a/b", b"the same")

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put, range(8))) == 1
    assert files.read("a/b", 10) == b"the same"


def test_paths_cannot_lead_out(files: Files) -> None:
    calls: list[Callable[[str], object]] = [files.size, files.names, files.remove, files.clear]
    calls += [files.discard, lambda path: files.read(path, 1)]
    calls += [lambda path: files.write({path: b""}), lambda path: files.put_if_absent(path, b"")]
    for path, call in product(("../a", "a/../../b", "/etc/passwd", "a\\..\\b", "a\0b"), calls):
        with pytest.raises(StorageError, match="leads out"):
            call(path)


STEPS = st.tuples(
    st.sampled_from(["write", "put_if_absent", "remove", "clear", "read", "size", "names"]),
    st.sampled_from(["a/b", "a/c/d", "a/c/e", "f", "g/h"]),
    st.binary(max_size=3),
)


@given(st.lists(STEPS, max_size=30))
@settings(max_examples=60, deadline=None)
def test_an_object_store_behaves_as_a_directory_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes]]
) -> None:
    def carry_out(files: Files, action: str, path: str, data: bytes) -> object:
        match action:
            case "write":
                return files.write({path: data, "z": data})
            case "put_if_absent":
                return files.put_if_absent(path, data)
            case "read":
                return files.read(path, len(data))
            case "clear":
                return files.clear(path.partition("/")[0] if "/" in path else "g")
            case "names":
                # Of a directory that is empty now only a file system still knows.
                return set(files.names("a")) - {"c"}
        return getattr(files, action)(path)

    local, stored = LocalFiles(tmp_path_factory.mktemp("root")), in_memory()
    for step in steps:
        assert carry_out(local, *step) == carry_out(stored, *step)
    assert contents(local) == contents(stored)


def never() -> bool:
    return False


def test_nothing_else_is_overwritten_without_the_right_to_it() -> None:
    files = in_memory()
    files.write({"a": b"one", "b": b"two"}, never)
    files.write({"a": b"one"}, never)
    with pytest.raises(ClaimError, match="the right to do so was lost"):
        files.write({"a": b"1", "c": b"3"}, never)
    assert [files.read(path, 9) for path in "abc"] == [b"one", b"two", b"3"]
    # Nor swept, by a writer that comes late.
    files.discard("a")
    assert files.read("a", 9) == b"one"


@pytest.mark.parametrize("theirs", [b"theirs", b"mine"])
def test_a_successors_object_stays(theirs: bytes) -> None:
    """Its writer comes after the right was found to hold, and before what rests on that is put."""
    files = in_memory()
    files.write({"a": b"left over"})

    def is_mine() -> bool:
        files.write({"a": theirs})
        return True

    fails = pytest.raises(ClaimError, match="someone else writes")
    with fails if theirs != b"mine" else nullcontext():
        files.write({"a": b"mine"}, is_mine)
    assert files.read("a", 9) == theirs


def test_an_object_is_never_read_half_before_and_half_after_a_change(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.bucket, "PART", 1000)
    files, other, stop = open_bucket(s3), open_bucket(s3), threading.Event()
    files.write({"a": b"0" * 4000})

    def change() -> None:
        while not stop.is_set():
            other.write({"a": b"1" * 4000})
            other.write({"a": b"0" * 4000})

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            try:
                assert files.read("a", 4000) in (b"0" * 4000, b"1" * 4000)
            except StorageError as error:
                assert "changes faster" in str(error)
    finally:
        stop.set()
        thread.join()


def test_a_put_whose_answer_was_lost_is_known_again(s3: str, object_server: str) -> None:
    files = open_bucket(s3)
    for path in ("record", "data"):
        ask(object_server, f"_server/{path}", "PUT")
        if path == "record":
            assert files.put_if_absent(path, b"x")
        else:
            files.write({path: b"x"}, never)
        assert files.read(path, 9) == b"x"
    ask(object_server, "_server/data", "PUT")
    files.write({"data": b"y"})
    assert files.read("data", 9) == b"y"
    assert not files.put_if_absent("record", b"x")


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
