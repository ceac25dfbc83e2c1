from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for

from stages.errors import ModelError
from stages.lm import describe_identity, identity
from stages.lm.identity import hash_files
from stages.reporter import Interrupted, SilentReporter


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the memory will be; every file is large enough for it, and old enough."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(identity, "REMEMBERED_BYTES", 1)
    monkeypatch.setattr(identity, "SETTLED_NS", -(10**12))
    return tmp_path / "home" / "functional-projection" / "weights.json"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 5000)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is opened from now on."""
    found: list[Path] = []
    real = Path.open

    def spy(path: Path, *arguments: Any, **options: Any) -> Any:
        found.append(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", spy)
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hash_quietly(*paths: Path) -> list[str]:
    reporter = SilentReporter()
    found = hash_files(paths, reporter)
    assert (reporter.lines, reporter.warnings) == ([], [])
    return found


def identify(folder: Path) -> dict[str, str]:
    return describe_identity(folder, SilentReporter())


def test_a_second_start_reads_no_weights(
    memory: Path, weights: Path, tmp_path: Path, opened: list[Path]
) -> None:
    others = [tmp_path / f"{i}.safetensors" for i in range(6)]
    for i, path in enumerate(others):
        path.write_bytes(bytes([i]) * (i + 1) * 300_000)
    paths = [others[3], weights, *others[:3], *others[4:]]
    expected = [sha256(path) for path in paths]
    assert hash_quietly(*paths) == expected
    opened.clear()
    assert hash_quietly(*paths) == expected
    assert opened == [memory]
    link = tmp_path / "link"  # as in the hub's own cache
    link.symlink_to(weights)
    assert hash_quietly(link) == [sha256(weights)]
    assert link not in opened


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes()[::-1])
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, replace])
def test_a_change_is_noticed_though_size_and_mtime_are_as_before(
    change: Callable[[Path], None], memory: Path, weights: Path
) -> None:
    before = weights.stat()
    first = hash_quietly(weights)

    def change_and_hide() -> bool:
        change(weights)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        # The clock of the file system is coarse, which is what SETTLED_NS is for.
        return weights.stat().st_ctime_ns != before.st_ctime_ns and [sha256(weights)] != first

    wait_for(change_and_hide)
    after = weights.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert hash_quietly(weights) == [sha256(weights)] != first


def test_what_was_written_moments_ago_is_not_remembered(
    memory: Path, weights: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "SETTLED_NS", 10**18)
    assert hash_quietly(weights) == hash_quietly(weights)
    assert opened.count(weights) == 2
    assert not memory.exists()


def test_small_files_leave_no_trace(
    memory: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "REMEMBERED_BYTES", weights.stat().st_size + 1)
    assert hash_quietly(weights) == [sha256(weights)]
    assert not memory.parent.exists()


def flip(data: bytes) -> bytes:
    place = data.index(b'"', data.index(b"[")) + 1
    return data[:place] + (b"1" if data[place : place + 1] == b"0" else b"0") + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "a digit of a hash": flip,
    "another version": lambda data: identity.seal({"version": 1, "files": {}}),
    "a list": lambda data: b"[]",
    "huge": lambda data: b" " * (identity.LARGEST_MEMORY + 1),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_memory_is_said_and_replaced(name: str, memory: Path, weights: Path) -> None:
    expected = hash_quietly(weights)
    sound = memory.read_bytes()
    memory.write_bytes(DAMAGES[name](sound))
    reporter = SilentReporter()
    assert hash_files([weights], reporter) == expected
    (warning,) = reporter.warnings
    assert "hashing the weights anew" in warning
    assert str(memory) in warning
    assert memory.read_bytes() == sound
    assert hash_quietly(weights) == expected


def test_a_memory_that_cannot_be_is_said_and_done_without(
    memory: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.parent.parent.mkdir()
    memory.parent.write_text("a file where the folder should be")
    reporter = SilentReporter()
    assert hash_files([weights], reporter) == [sha256(weights)]
    assert "the next start hashes the weights again" in reporter.warnings[-1]

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setattr(Path, "home", homeless)
    reporter = SilentReporter()
    assert hash_files([weights], reporter) == [sha256(weights)]
    assert all("XDG_CACHE_HOME says where" in warning for warning in reporter.warnings)
    assert len(reporter.warnings) == 2


def test_files_that_are_gone_are_forgotten(memory: Path, weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x")
    hash_quietly(other)
    assert str(other) in memory.read_text()
    other.unlink()
    hash_quietly(weights)
    assert str(other) not in memory.read_text()


class Watcher(SilentReporter):
    """Counts progress, and stops where told to."""

    def __init__(self, stop: bool = False) -> None:
        super().__init__()
        self.shown, self.stop = 0, stop

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            self.shown += count

        yield advance

    def check_stop(self) -> None:
        if self.stop:
            raise Interrupted("stopped")


def test_hashing_gigabytes_is_said_shown_and_can_be_stopped(
    memory: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "LARGE", 10**6)
    monkeypatch.setattr(identity, "MEBIBYTE", 1000)
    with pytest.raises(Interrupted):
        hash_files([weights], Watcher(stop=True))
    assert not memory.exists()
    reporter = Watcher()
    hash_files([weights], reporter)
    assert reporter.lines == ["hashing the weights (0.0 GB), remembered from then on"]
    assert reporter.shown == 1280
    hash_quietly(weights)
    monkeypatch.setattr(identity, "SETTLED_NS", 10**18)
    rewrite(weights)
    hash_files([weights], reporter)
    assert reporter.lines[1].endswith("not remembered: just written")


def test_weights_that_cannot_be_read_or_are_being_written_are_an_error(
    memory: Path, weights: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(ModelError, match=f"cannot read {path}: "):
            hash_files([path], SilentReporter())

    class Meddler(SilentReporter):
        def check_stop(self) -> None:
            os.truncate(weights, 100)

    with pytest.raises(ModelError, match="written while it was hashed"):
        hash_files([weights], Meddler())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.safetensors", "weights"),
        ("config.json", "config"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
    ],
)
def test_it_changes_with_what_answers_depend_on(
    name: str, part: str, llm: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(llm, tmp_path / "copy"))
    (copy / "README.md").write_text("a card")
    (copy / "generation_config.json").unlink()
    before = identify(copy)
    assert before == identify(llm)
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    after = identify(copy)
    assert {key for key in before if before[key] != after[key]} == {part}


def test_weights_in_shards_count_with_their_names(llm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(llm, tmp_path / "copy"))
    shutil.copy(copy / "model.safetensors", copy / "model-2.safetensors")
    one = identify(copy)["weights"]
    (copy / "model-2.safetensors").rename(copy / "model-3.safetensors")
    assert identify(copy)["weights"] != one


def test_the_makers_own_copy_does_not_make_it_another_model(llm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(llm, tmp_path / "copy"))
    (copy / "consolidated.safetensors").write_bytes(b"the same in another form")
    assert identify(copy) == identify(llm)


def test_it_is_a_hash_of_names_and_hashes(tmp_path: Path) -> None:
    for name, data in {"a.safetensors": b"1", "config.json": b"2", "vocab.json": b"3"}.items():
        (tmp_path / name).write_bytes(data)
    line = f"config.json:{hashlib.sha256(b'2').hexdigest()}\n"
    assert identify(tmp_path)["config"] == hashlib.sha256(line.encode()).hexdigest()
