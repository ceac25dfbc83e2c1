from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Stopping, make_teacher_config

from cache.directory import Cache
from cache.errors import NonFiniteError
from cache.format.layout import Layout, answer_columns
from cache.format.manifest import Manifest
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores.interface import Claim
from stages.reporter import Interrupted, SilentReporter
from stages.teacher.fill import ShardWriter
from stages.teacher.stage import run_teacher

SHARDS, ROWS = 5, 8


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    layout = Layout(SHARDS * ROWS - 3, 4, ROWS, answer_columns(2))
    return create_or_open(tmp_path, Manifest("test", {"model": "m"}, layout), dict)


def take(cache: Cache) -> Claim:
    claim = cache.claim_next()
    assert claim is not None
    return claim


def make_columns(cache: Cache, shard: int, value: float = 0.5) -> dict[str, np.ndarray]:
    rows = len(cache.rows_of(shard))
    return {
        "seed": np.full(rows, shard, dtype=np.uint64),
        "length": np.ones(rows, dtype=np.int32),
        "logits": np.full((rows, 2), value, dtype=np.float32),
        "probabilities": np.full((rows, 2), 0.5, dtype=np.float32),
    }


def held(cache: Cache) -> list[int]:
    return [claim.shard for claim in cache.live_claims()]


class TestShardWriter:
    def test_shards_are_committed_in_the_order_in_which_they_were_put(self, cache: Cache) -> None:
        warnings: list[str] = []
        with ShardWriter(cache, warnings.append) as writer:
            for shard in range(SHARDS):
                claim = take(cache)
                assert claim.shard == shard
                writer.put(claim, make_columns(cache, shard), 0.25)
                # All but this one, which the next may overtake only where it is computed.
                assert cache.committed()[:shard] == list(range(shard))
            writer.settle()
            assert writer.rows == SHARDS * ROWS - 3
            assert cache.is_complete
        assert held(cache) == []
        finished = [cache.record(shard).finished for shard in range(SHARDS)]
        assert finished == sorted(finished)
        assert {cache.record(shard).seconds for shard in range(SHARDS)} == {0.25}
        reader = CacheReader(cache)
        assert [reader.read_shard(shard)["seed"][0] for shard in range(SHARDS)] == [*range(SHARDS)]
        assert warnings == []

    def test_a_shard_is_committed_while_the_next_one_is_computed(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        goes_on, commit = threading.Event(), cache.commit

        def wait_and_commit(*arguments: Any) -> None:
            assert goes_on.wait(60)
            commit(*arguments)

        monkeypatch.setattr(cache, "commit", wait_and_commit)
        with ShardWriter(cache, lambda line: None) as writer:
            writer.put(take(cache), make_columns(cache, 0), 0.0)
            assert cache.committed() == []
            following = take(cache)  # its rows would be computed here
            assert (following.shard, held(cache)) == (1, [0, 1])
            goes_on.set()
            writer.put(following, make_columns(cache, 1), 0.0)
            assert cache.committed()[0] == 0
        assert cache.committed() == [0, 1]

    @pytest.mark.parametrize("how", ["put", "settle", "leave"])
    def test_what_cannot_be_committed_is_known_at_the_next_step(
        self, how: str, cache: Cache
    ) -> None:
        def run() -> None:
            with ShardWriter(cache, lambda line: None) as writer:
                writer.put(take(cache), make_columns(cache, 0), 0.0)
                writer.put(take(cache), make_columns(cache, 1, np.nan), 0.0)
                if how == "put":
                    writer.put(take(cache), make_columns(cache, 2), 0.0)
                elif how == "settle":
                    writer.settle()
                if how != "leave":
                    raise AssertionError("went on after a shard was not committed")

        with pytest.raises(NonFiniteError, match=rf"shard 1: .* of row {ROWS} "):
            run()
        assert cache.committed() == [0]
        assert held(cache) == [], "the claim of what was not committed either is released"
        assert take(cache).shard == 1

    @pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt, ValueError])
    def test_what_was_put_is_committed_whatever_comes_in_between(
        self, error: type[BaseException], cache: Cache
    ) -> None:
        with pytest.raises(error), ShardWriter(cache, lambda line: None) as writer:
            writer.put(take(cache), make_columns(cache, 0), 0.0)
            raise error
        assert cache.committed() == [0]
        assert (writer.rows, held(cache)) == (ROWS, [])


def test_a_stop_while_a_shard_is_computed_keeps_the_one_before_and_frees_its_claim(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    middle = Stopping(lambda: any(tmp_path.glob("mood/*/claims/0*2*.lock")))
    config = make_teacher_config(mood, llm, tmp_path)
    with pytest.raises(Interrupted):
        run_teacher(config, middle)
    assert len(list(tmp_path.glob("mood/*/commits/*"))) == 2
    assert run_teacher(config, SilentReporter()).computed == 200 - 2 * 32
