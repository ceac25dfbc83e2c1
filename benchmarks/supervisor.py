"""Workers on one cache, killed (SIGKILL) at random instants until the cache is complete.

How many kills there are does not depend on how fast the machine is: an instant is given by what
has happened in the cache's directory, never by the clock alone.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Tally:
    """Workers killed while they ran, by what they were doing: one of :data:`MOMENTS`."""

    moments: Counter[str]

    @property
    def kills(self) -> int:
        """How many were killed."""
        return self.moments.total()


class Supervisor:
    """Kills workers and starts others in their place.

    Args:
        start: Starts a worker, given a number that no other has.
        reference: The same cache, filled without interruption somewhere else.
        directory: Where the workers' cache is, or will be.
    """

    def __init__(self, start: Callable[[int], Worker], reference: Cache, directory: Path) -> None:
        self._start, self._numbers = start, itertools.count()
        self._reference, self._directory = reference, directory
        self._records: dict[str, tuple[int, int]] = {}

    def run(self, plan: Plan) -> Tally:
        """Let the workers fill the cache, killing them as planned.

        Raises:
            AssertionError: A worker failed, or a committed shard vanished or was done again.
        """
        chance = random.Random(plan.seed)  # noqa: S311 - repeatable, not secret
        moments: Counter[str] = Counter()
        crew = [self._start(next(self._numbers)) for _ in range(plan.workers)]
        try:
            while (done := moments.total()) < plan.kills:
                # The last tenth of the shards is kept for the time after the last kill.
                share = max(0, done - EARLY) / max(1, plan.kills - EARLY)
                goal = int(0.9 * self._reference.shards * share)
                signs = chance.randint(0, 8 if self._look()[-1] else 12)
                if not self._await(crew, goal, signs):
                    break
                time.sleep(chance.uniform(0, 0.003))
                victim = chance.randrange(plan.workers)
                crew[victim].kill()
                if crew[victim].poll() != -signal.SIGKILL:
                    break  # it was quicker, and then the cache is complete
                moments[self._find_moment(crew[victim].pid)] += 1
                self.check_records()
                crew[victim] = self._start(next(self._numbers))
            for worker in crew:
                finish(worker)
        finally:
            for worker in crew:
                worker.kill()
        self.check_records()
        return Tally(moments)

    def check_records(self) -> None:
        """Assert that whatever was committed before is so still, by the very same file."""
        now = {}
        for name in self._look()[-1]:
            status = (self._directory / "commits" / name).stat()
            now[name] = (status.st_ino, status.st_mtime_ns)
        assert self._records.items() <= now.items(), "a committed shard was lost or done again"
        self._records = now

    def _await(self, crew: list[Worker], goal: int, signs: int) -> bool:
        """Wait for so many shards, then for signs of life; False where a worker ends before."""
        last, look = time.monotonic(), self._look()
        while signs >= 0:
            for worker in crew:
                if (code := worker.poll()) is not None:
                    assert code == 0, f"a worker ended with {code}:\n{worker.read_log()}"
                    return False
            before, look = look, self._look()
            if look != before:
                last = time.monotonic()
                signs -= len(look[-1]) >= goal
            assert time.monotonic() - last < PATIENCE, f"nothing happens in {self._directory}"
            time.sleep(0.001)
        return True

    def _look(self) -> tuple[list[str], ...]:
        parts = ("", "tmp", "claims", "commits")
        return tuple(_names(self._directory / part) for part in parts)

    def _find_moment(self, pid: int) -> str:
        claims = self._directory / "claims"
        held = [name for name in _names(claims) if _read_holder(claims / name) == pid]
        if not held:
            return MOMENTS[0]
        shard = int(held[0].removesuffix(".lock"))
        columns = self._reference.layout.columns.items()
        there = [(self._directory / object_path(*column, shard)).exists() for column in columns]
        if (self._directory / record_path(shard)).exists():
            return MOMENTS[4]
        if all(there):
            return MOMENTS[3]
        return MOMENTS[2] if any(there) or _names(self._directory / "tmp") else MOMENTS[1]


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
