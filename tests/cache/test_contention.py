"""Writers of one cache, killed at random: nothing is lost and nothing is done twice."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest
from store_worker import fill, make_cache, make_columns, read_everything, tree

from cache.verification import verify_cache

MANY = {"rows": 1600, "shard_rows": 8}


def write(root: Path, log: Path) -> None:
    cache = make_cache(root, **MANY)
    with log.open("ab", buffering=0) as told:
        while not cache.is_complete:
            if (claim := cache.claim_next()) is None:
                time.sleep(0.005)
                continue
            with claim:
                time.sleep(0.01)
                cache.commit(claim, make_columns(cache, claim.shard), 0.5)
                told.write(b"%d\n" % claim.shard)


@pytest.mark.parametrize(
    ("seed", "kills"),
    [(0, 24), *(pytest.param(i, 60, marks=pytest.mark.slow) for i in range(1, 9))],
)
def test_writers_killed_at_random_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, seed: int, kills: int
) -> None:
    chance, root, log = random.Random(seed), tmp_path / "cache", tmp_path / "log"  # noqa: S311
    forks = multiprocessing.get_context("fork")
    writers = [forks.Process(target=write, args=(root, log)) for _ in range(8)]
    for writer in writers:
        writer.start()
    killed = 0
    while any(writer.is_alive() for writer in writers):
        time.sleep(chance.uniform(0, 0.1))
        number = chance.randrange(len(writers))
        if killed < kills and writers[number].is_alive():
            writers[number].kill()
            writers[number].join()
            killed += 1
            writers[number] = forks.Process(target=write, args=(root, log))
            writers[number].start()
    assert {writer.exitcode for writer in writers} == {0}
    # The rest may come too late on a machine that lets the writers run and this process wait.
    assert killed > 2
    whole, found = make_cache(tmp_path / "whole", **MANY), make_cache(root, **MANY)
    fill(whole)
    assert tree(found.place.path) == tree(whole.place.path)
    committed = [int(line) for line in log.read_text().split()]
    assert len(committed) == len(set(committed))
    # A kill may come between a commit and its line.
    assert whole.shards - killed <= len(committed) <= whole.shards
    report = verify_cache(found.place)
    assert (report.committed, report.faults, report.strays) == (whole.shards, (), ())
    read_everything(found.place.path)
