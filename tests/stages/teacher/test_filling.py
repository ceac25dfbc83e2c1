from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Listener, Stopping, draw_ids, make_teacher, make_teacher_config

from cache.directory import Cache
from cache.draw.samplers import VocabularySampler
from cache.errors import NonFiniteError
from cache.format.layout import Layout, answer_columns
from cache.format.manifest import Manifest
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores.interface import Claim
from stages.inputs.preparation import Inputs
from stages.reporter import Interrupted, SilentReporter
from stages.teacher.fill import ShardWriter, answer_inputs
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

    def test_a_lost_claim_is_said_and_the_next_shard_goes_on(self, cache: Cache) -> None:
        warnings: list[str] = []
        with ShardWriter(cache, warnings.append) as writer:
            lost = take(cache)
            for lock in cache.place.path.glob("claims/0*.lock"):  # type: ignore[union-attr]
                lock.unlink()
            writer.put(lost, make_columns(cache, 0), 0.0)
            following = take(cache)
            writer.put(following, make_columns(cache, following.shard), 0.0)
        (warning,) = warnings
        assert "shard 0" in warning
        assert warning.endswith("going on with what is free")
        assert cache.committed() == [following.shard]
        assert writer.rows == ROWS

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


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_columns_are_the_answers_to_the_inputs_in_their_order(family: str) -> None:
    teacher, listener = make_teacher(family), Listener()
    lengths = np.array([3, 0, 24, 3, 1, 24, 9], dtype=np.int32)
    tokens = draw_ids(7, 24, len(teacher.table)).numpy().astype(np.int32)
    tokens[np.arange(24) >= lengths[:, None]] = -1
    seeds = np.arange(7, dtype=np.uint64) * np.uint64(2**60)
    sampler = VocabularySampler(teacher.table)
    by_text = answer_inputs(
        Inputs(seeds, lengths, tokens, {}), {}, teacher, 60, listener.hear(teacher)
    )
    longer = np.maximum(lengths, 1)  # only texts are empty
    random = Inputs(seeds, longer, None, {"name": "vocabulary"})
    drawn = answer_inputs(random, {"vocabulary": sampler}, teacher, 60, listener.hear(teacher))
    embedders: list[tuple[dict[str, Any], np.ndarray, Callable[[int], torch.Tensor]]] = [
        (by_text, lengths, lambda row: teacher.look_up(tokens[[row], : lengths[row]])),
        (drawn, longer, lambda row: sampler.draw_embeddings(seeds[[row]], int(longer[row]))),
    ]
    for columns, sizes, embed in embedders:
        np.testing.assert_array_equal(columns["seed"], seeds)
        np.testing.assert_array_equal(columns["length"], sizes)
        for row in range(7):
            wanted = teacher.compute_class_logits(embed(row))[0]
            np.testing.assert_allclose(columns["logits"][row], wanted, atol=1e-4)
            np.testing.assert_allclose(
                columns["probabilities"][row], wanted.softmax(dim=0), atol=1e-5
            )
    assert "tokens" not in drawn
    np.testing.assert_array_equal(by_text["tokens"], tokens)
    assert sum(listener.counts) == 14
