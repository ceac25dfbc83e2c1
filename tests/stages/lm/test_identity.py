from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import Stopping

from stages.errors import ModelError
from stages.lm import describe_identity, identity
from stages.lm.identity import hash_files
from stages.reporter import Interrupted, SilentReporter


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 5000)
    return path


def identify(folder: Path) -> dict[str, str]:
    return describe_identity(folder, SilentReporter())


class Watcher(SilentReporter):
    """Counts progress."""

    shown = 0

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            self.shown += count

        yield advance


def test_hashing_gigabytes_is_shown_and_can_be_stopped(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "LARGE", 10**6)
    monkeypatch.setattr(identity, "MEBIBYTE", 1000)
    with pytest.raises(Interrupted):
        hash_files([weights], Stopping())
    reporter = Watcher()
    assert hash_files([weights], reporter) == [hashlib.sha256(weights.read_bytes()).hexdigest()]
    assert reporter.shown == 1280


def test_weights_that_cannot_be_read_or_are_being_written_are_an_error(
    weights: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(ModelError, match=f"cannot read {path}: "):
            hash_files([path], SilentReporter())

    meddler = Stopping(lambda: os.truncate(weights, 100))
    with pytest.raises(ModelError, match="written while it was hashed"):
        hash_files([weights], meddler)


def test_it_changes_with_what_answers_depend_on(llm: Path, tmp_path: Path) -> None:
    for name, part in (
        ("model.safetensors", "weights"),
        ("config.json", "config"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
    ):
        copy = Path(shutil.copytree(llm, tmp_path / name))
        (copy / "README.md").write_text("a card")
        (copy / "generation_config.json").unlink()
        before = identify(copy)
        assert before == identify(llm)
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        after = identify(copy)
        assert {key for key in before if before[key] != after[key]} == {part}


def test_weights_in_shards_count_with_their_names_and_no_second_copy(
    llm: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(llm, tmp_path / "copy"))
    (copy / "consolidated.safetensors").write_bytes(b"the same in its makers' own form")
    assert identify(copy) == identify(llm)
    shutil.copy(copy / "model.safetensors", copy / "model-2.safetensors")
    one = identify(copy)["weights"]
    (copy / "model-2.safetensors").rename(copy / "model-3.safetensors")
    assert identify(copy)["weights"] != one


def test_it_is_a_hash_of_names_and_hashes(tmp_path: Path) -> None:
    for name, data in {"a.safetensors": b"1", "config.json": b"2", "vocab.json": b"3"}.items():
        (tmp_path / name).write_bytes(data)
    line = f"config.json:{hashlib.sha256(b'2').hexdigest()}\n"
    assert identify(tmp_path)["config"] == hashlib.sha256(line.encode()).hexdigest()
