"""Eight writers and one cache, killed at random; no model, so that writing is all they do."""

import os
import signal
from pathlib import Path

import pytest
from store_worker import fill, inside, make_cache

from benchmarks.supervisor import Plan, compare
from benchmarks.survival import survive_contention
from benchmarks.workers import Forked, finish


def test_eight_writers_killed_at_random_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    tally = survive_contention(tmp_path, Plan(kills=24, workers=8, seed=1), shards=200)
    # The rest may come too late on a machine that lets the writers run and this process wait.
    assert tally.kills > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_so_it_is_for_other_seeds_and_more_kills(seed: int, tmp_path: Path) -> None:
    tally = survive_contention(tmp_path, Plan(kills=40, workers=8, seed=seed), shards=200)
    assert tally.kills > 8


@pytest.mark.parametrize("published", ["manifest.json", "000002.json"])
def test_a_writer_killed_while_its_file_has_two_names_leaves_one(
    published: str, tmp_path: Path
) -> None:
    """Nobody claims a committed shard again, nor creates a cache that is there."""
    link = os.link

    def link_and_die(source: Path, target: Path) -> None:
        link(source, target)
        if target.name == published:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        os.link = link_and_die  # type: ignore[assignment]
        fill(make_cache(tmp_path / "cache"))

    finish(Forked(work, tmp_path / "log"), -signal.SIGKILL)
    (found,) = (tmp_path / "cache").iterdir()
    (left,) = inside(found / "tmp")
    assert published in left
    fill(make_cache(tmp_path / "cache"))
    whole = make_cache(tmp_path / "whole")
    fill(whole)
    compare(whole, found)
