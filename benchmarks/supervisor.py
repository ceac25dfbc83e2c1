"""Workers on one cache, killed (SIGKILL) at random instants until the cache is complete.

How many kills there are does not depend on how fast the machine is: they are spread over the
shards that are committed.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workers import PATIENCE, Worker, finish
from cache.directory import Cache
from cache.format import object_path, record_path
from cache.opening import open_cache
from cache.verification import verify_cache

MOMENTS = ("no claim", "computing", "writing a file", "before the record", "committed")
"""What a killed worker was doing, as its claim and its files tell."""
EARLY = 3
"""Kills that come before any shard need be committed, the creation's among them."""


@dataclass(frozen=True)
class Plan:
    """How often to kill, unless the cache is complete before; and how many workers at once."""

    kills: int
    workers: int = 1
    seed: int = 0


@dataclass
class Tally:
    """Workers killed while they ran, by :data:`MOMENTS`, and the commit records there were."""

    moments: Counter[str] = field(default_factory=Counter)
    records: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def kills(self) -> int:
        """How many were killed."""
        return self.moments.total()

    def check_records(self, directory: Path) -> None:
        """Assert that whatever was committed before is so still, by the very same file."""
        paths = {name: directory / "commits" / name for name in _names(directory / "commits")}
        now = {name: (p.stat().st_ino, p.stat().st_mtime_ns) for name, p in paths.items()}
        assert self.records.items() <= now.items(), "a committed shard was lost or done again"
        self.records = now


def supervise(
    start: Callable[[int], Worker], reference: Cache, directory: Path, plan: Plan
) -> Tally:
    """Let workers fill a cache, killing them and starting others in their place.

    Args:
        start: Starts a worker, given a number that no other has.
        reference: The same cache, filled without interruption somewhere else.
        directory: Where the workers' cache is, or will be.
        plan: How often.

    Raises:
        AssertionError: A worker failed, or a committed shard vanished or was done again.
    """
    chance = random.Random(plan.seed)  # noqa: S311 - repeatable, not secret
    tally, numbers, last = Tally(), itertools.count(), time.monotonic()
    crew = [start(next(numbers)) for _ in range(plan.workers)]
    try:
        while tally.kills < plan.kills and all(worker.poll() is None for worker in crew):
            # The last tenth of the shards is kept for the time after the last kill.
            share = max(0, tally.kills - EARLY) / max(1, plan.kills - EARLY)
            done = len(_names(directory / "commits"))
            assert time.monotonic() - last < PATIENCE, f"nothing happens in {directory}"
            if done < int(0.9 * reference.shards * share):
                time.sleep(0.001)
                continue
            time.sleep(chance.uniform(0, 0.03 if done else 0.5))
            victim = chance.randrange(plan.workers)
            crew[victim].kill()
            if crew[victim].poll() != -signal.SIGKILL:
                break  # it was quicker, and then the cache is complete
            tally.moments[_find_moment(crew[victim].pid, reference, directory)] += 1
            tally.check_records(directory)
            crew[victim], last = start(next(numbers)), time.monotonic()
        for worker in crew:
            finish(worker)
    finally:
        for worker in crew:
            worker.kill()
    tally.check_records(directory)
    return tally


def _find_moment(pid: int, reference: Cache, directory: Path) -> str:
    claims = directory / "claims"
    held = [name for name in _names(claims) if _read_holder(claims / name) == pid]
    if not held:
        return MOMENTS[0]
    shard, columns = int(held[0].removesuffix(".lock")), reference.layout.columns.items()
    if (directory / record_path(shard)).exists():
        return MOMENTS[4]
    there = [(directory / object_path(*column, shard)).exists() for column in columns]
    if all(there):
        return MOMENTS[3]
    return MOMENTS[2] if any(there) or _names(directory / "tmp") else MOMENTS[1]


def _read_holder(claim: Path) -> int:
    try:
        return int(json.loads(claim.read_text())["pid"]) if claim.stem.isdigit() else 0
    except (FileNotFoundError, ValueError, KeyError):
        return 0


def compare(reference: Cache, directory: Path) -> None:
    """Assert that a cache is the one that was filled without interruption, to the last byte."""
    found, whole = open_cache(directory, reference.fingerprint), Path(str(reference.place))
    assert found.is_complete
    assert found.live_claims() == []
    assert _names(directory / "tmp") == []
    assert _names(directory / "commits") == _names(whole / "commits")
    assert _tree(directory) == _tree(whole)
    assert not verify_cache(directory).faults


def _tree(directory: Path) -> dict[str, bytes]:
    paths = [path for part in ("rows", "attachments") for path in (directory / part).rglob("*")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths if path.is_file()}


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
