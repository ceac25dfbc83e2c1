"""``torchrun -m pipeline teacher``: ranks share a cache, and may die, as their agent may."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from processes import wait_for

from benchmarks.supervisor import compare
from benchmarks.survival import Teachers
from benchmarks.workers import PATIENCE, Spawned, finish, is_alive
from cache.directory import Cache
from cache.opening import create_or_open
from cache.stores import Claim

SHARDS = 40


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    return Teachers(tmp_path_factory.mktemp("teachers"), SHARDS)


@pytest.fixture
def cache(teachers: Teachers, tmp_path: Path) -> Cache:
    """An empty cache that the ranks are to fill."""
    whole = teachers.reference
    manifest = replace(whole.manifest, files={}, created="")
    files = {name: whole.read_attachment(name) for name in whole.manifest.attachments}
    return create_or_open(tmp_path / "reddit", manifest, lambda kept: files)


@pytest.fixture
def held(cache: Cache) -> Claim:
    """The right to write one shard: until it is given back, nobody completes the cache."""
    return cache.claim_next() or pytest.fail("nothing to claim")


@contextmanager
def torchrun(
    teachers: Teachers, ranks: int, folder: Path, *options: object, log: str = "log"
) -> Iterator[Spawned]:
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", *options)
    command += ("--nproc-per-node", ranks, "-m", "pipeline", *teachers.arguments)
    command += ("--cache", folder, "--summary", folder / "summary.json")
    agent = Spawned(command, folder / log, folder)
    try:
        yield agent
    finally:
        agent.kill_tree()


def wait_for_shards(cache: Cache, agent: Spawned) -> None:
    """Wait until the ranks have committed all but one, which they cannot have."""

    def are_there() -> bool:
        assert agent.poll() is None, agent.read_log()
        return len(cache.committed()) == SHARDS - 1

    wait_for(are_there, PATIENCE)


def count_rows(log: str) -> int:
    """Return how many rows the ranks say that they have computed."""
    return sum(map(int, re.findall(r"^computed (\d+) rows", log, re.MULTILINE)))


def check_summary(cache: Cache, folder: Path) -> None:
    """Every rank has written it, whole each time."""
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["rows"], summary["fingerprint"]) == (SHARDS * 16, cache.fingerprint)
    assert not list(folder.glob(".summary*"))


def records(cache: Cache) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in cache.place.path.glob("commits/*")}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at once", "at the end"])
def test_a_killed_rank_is_started_again_and_what_is_committed_stays(
    when: str, teachers: Teachers, cache: Cache, held: Claim, tmp_path: Path
) -> None:
    with torchrun(teachers, 2, tmp_path, "--max-restarts", 3) as agent:
        wait_for(lambda: len(agent.find_children()) == 2, PATIENCE)
        if when == "at the end":
            wait_for_shards(cache, agent)
        before, ranks = records(cache), agent.find_children()
        ranks[0].kill()
        wait_for(lambda: len({*agent.find_children()} - {*ranks}) == 2, PATIENCE)
        held.release()
        finish(agent)
    assert before.items() <= records(cache).items()
    compare(teachers.reference, cache.place.path)
    if when == "at the end":
        assert count_rows(agent.read_log()) == 16
    assert "\r" not in agent.read_log()
    check_summary(cache, tmp_path)


@pytest.mark.slow
def test_ranks_share_the_rows_and_the_summary(
    teachers: Teachers, cache: Cache, tmp_path: Path
) -> None:
    with torchrun(teachers, 3, tmp_path) as agent:
        finish(agent)
    compare(teachers.reference, cache.place.path)
    log = agent.read_log()
    assert count_rows(log) == SHARDS * 16
    assert log.count("device: cpu (auto: no CUDA device is there)") == 3
    check_summary(cache, tmp_path)


@pytest.mark.slow
def test_a_rank_s_death_stops_the_others_and_the_same_command_continues(
    teachers: Teachers, cache: Cache, held: Claim, tmp_path: Path
) -> None:
    with torchrun(teachers, 3, tmp_path) as agent:
        wait_for_shards(cache, agent)
        before, ranks = records(cache), agent.find_children()
        ranks[1].kill()
        finish(agent, 1)
        assert not any(map(is_alive, ranks))
    assert records(cache) == before
    held.release()
    with torchrun(teachers, 3, tmp_path, log="again") as agent:
        finish(agent)
    assert before.items() <= records(cache).items()
    compare(teachers.reference, cache.place.path)


@pytest.mark.slow
def test_ranks_without_their_agent_finish_next_to_a_second_torchrun(
    teachers: Teachers, cache: Cache, held: Claim, tmp_path: Path
) -> None:
    with torchrun(teachers, 2, tmp_path) as first:
        wait_for_shards(cache, first)
        first.kill()
        assert first.poll() == -signal.SIGKILL
        orphans = first.find_orphans()
        assert len(orphans) == 2
        with torchrun(teachers, 2, tmp_path, log="second") as second:
            wait_for(lambda: second.read_log().count("waiting: ") == 2, PATIENCE)
            assert {*first.find_orphans()} == {*orphans}
            held.release()
            finish(second)
        wait_for(lambda: not first.find_orphans(), PATIENCE)
    compare(teachers.reference, cache.place.path)
