import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_worker import go, read_until, worker
from object_server import ask
from obstore.store import MemoryStore

import cache.stores.bucket
from cache.errors import ClaimError, StorageError
from cache.stores.bucket import Bucket, open_bucket
from cache.stores.files import LocalFiles
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


def test_what_is_written_is_read_and_replaced(files: Files) -> None:
    files.write({"a/b/c": b"one", "d": b"", "ü %20+#": b"x"})
    assert files.read("a/b/c", 10) == b"one"
    assert files.read("d", 10) == b""
    assert files.read("ü %20+#", 10) == b"x"
    files.write({"a/b/c": b"other"})
    assert (files.read("a/b/c", 10), files.size("a/b/c")) == (b"other", 5)
    assert contents(files) == {"a/b/c": 5, "d": 0, "ü %20+#": 1}


def test_no_more_is_read_than_asked_for_and_one_byte(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.bucket, "PART", 1000)
    data = bytes(range(256)) * 20
    files.write({"a": data})
    for limit in (0, 1, 10, 999, 1000, 1001, 2500, 5118, 5119, 5120, 10**9):
        assert files.read("a", limit) == data[: limit + 1]


def test_what_is_not_there(files: Files) -> None:
    assert (files.read("a", 1), files.size("a"), files.names("a"), files.names()) == (
        (None, None, [], [])
    )
    files.remove("a")
    files.clear("a")
    files.clear("")
    files.discard("a")
    files.write({"a": b""})
    assert (files.read("a/b", 1), files.size("a/b"), files.names("a/b")) == (None, None, [])


def test_names_and_what_is_removed(files: Files) -> None:
    files.write({"a/x/1": b"", "a/y": b"", "ab/z": b"", "c": b""})
    assert files.names("a") == ["x", "y"]
    assert set(files.names()) - {"tmp"} == {"a", "ab", "c"}
    files.remove("a/y")
    files.clear("a")
    assert contents(files) == {"ab/z": 0, "c": 0}
    files.clear("")
    assert contents(files) == {}


def test_put_if_absent_has_one_winner(files: Files) -> None:
    barrier, wins = threading.Barrier(8), []

    def put(number: int) -> None:
        barrier.wait()
        if files.put_if_absent("a/b", b"the same"):
            wins.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert files.read("a/b", 10) == b"the same"


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "a\\..\\b", "a\0b"])
def test_paths_cannot_lead_out(files: Files, path: str) -> None:
    calls: list[Callable[[str], object]] = [files.size, files.names, files.remove, files.clear]
    calls += [files.discard, lambda path: files.read(path, 1)]
    calls += [lambda path: files.write({path: b""}), lambda path: files.put_if_absent(path, b"")]
    for call in calls:
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
    both: tuple[Files, Files] = (LocalFiles(tmp_path_factory.mktemp("root")), in_memory())
    for action, path, data in steps:
        answers: list[object] = []
        for files in both:
            match action:
                case "write":
                    answers.append(files.write({path: data, "z": data}))
                case "put_if_absent":
                    answers.append(files.put_if_absent(path, data))
                case "read":
                    answers.append(files.read(path, len(data)))
                case "clear":
                    answers.append(files.clear(path.partition("/")[0] if "/" in path else "g"))
                case "names":
                    # Of a directory that is empty now only a file system still knows.
                    answers.append(set(files.names("a")) - {"c"})
                case _:
                    answers.append(getattr(files, action)(path))
        assert answers[0] == answers[1]
    assert contents(both[0]) == contents(both[1])


def never() -> bool:
    return False


def test_nothing_else_is_overwritten_without_the_right_to_it() -> None:
    files = in_memory()
    files.write({"a": b"one", "b": b"two"}, never)
    files.write({"a": b"one"}, never)
    with pytest.raises(ClaimError, match="the right to do so was lost"):
        files.write({"a": b"1", "c": b"3"}, never)
    assert [files.read(path, 9) for path in "abc"] == [b"one", b"two", b"3"]


@pytest.mark.parametrize(("theirs", "fails"), [(b"theirs", True), (b"mine", False)])
def test_a_successors_object_stays(theirs: bytes, fails: bool) -> None:
    """Its writer comes after the right was found to hold, and before what rests on that is put."""
    files = in_memory()
    files.write({"a": b"left over"})

    def is_mine() -> bool:
        files.write({"a": theirs})
        return True

    if fails:
        with pytest.raises(ClaimError, match="someone else writes"):
            files.write({"a": b"mine"}, is_mine)
    else:
        files.write({"a": b"mine"}, is_mine)
    assert files.read("a", 9) == theirs


def test_what_a_late_writer_sweeps_stays() -> None:
    files = in_memory()
    files.write({"rows/a": b"1"})
    files.discard("rows/a")
    files.discard("rows")
    assert files.read("rows/a", 9) == b"1"


def test_an_object_is_never_read_half_before_and_half_after_a_change(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.bucket, "PART", 1000)
    files, other, stop = open_bucket(s3), open_bucket(s3), threading.Event()
    files.write({"a": b"0" * 4000})

    def change() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            other.write({"a": b"%d" % (turn % 2) * 4000})

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            try:
                data = files.read("a", 4000)
            except StorageError as error:
                assert "changes faster" in str(error)
            else:
                assert data in (b"0" * 4000, b"1" * 4000)
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


def test_of_several_processes_one_wins_each_object(s3: str) -> None:
    script = (
        "import sys; from cache.stores.bucket import open_bucket\n"
        "bucket = open_bucket(sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for number in range(12):\n"
        "    if bucket.put(f'new/{number}', sys.argv[2].encode(), 'create'): print('new', number)\n"
        "    old = bucket.get(f'old/{number}', 9)\n"
        "    if old.data == b'' and bucket.put(f'old/{number}', sys.argv[2].encode(),\n"
        "        old.version): print('old', number)"
    )
    bucket = open_bucket(s3)
    for number in range(12):
        bucket.put(f"old/{number}", b"", "create")
    with ExitStack() as running:
        processes = [running.enter_context(worker("-c", script, s3, number)) for number in range(3)]
        for process in processes:
            read_until(process, "ready")
        for process in processes:
            go(process)
        won = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    every = [f"{kind} {number}" for kind in ("new", "old") for number in range(12)]
    assert sorted(line for lines in won for line in lines) == sorted(every)
    for number, lines in enumerate(won):
        for line in lines:
            found = bucket.get(line.replace(" ", "/"), 9)
            assert found is not None
            assert found.data == str(number).encode()
