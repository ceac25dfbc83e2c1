"""Workers on one cache, killed at random instants and started again, until the cache is complete.

How many kills there are does not depend on how fast the machine is: an instant is given by what
has happened in the cache's directory, never by the clock alone, and is drawn nearer or farther
according to how many shards and kills are still to come.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zarr

from benchmarks.workers import PATIENCE, Worker, finish
from cache.directory import Cache
from cache.format import object_path, record_path
from cache.opening import open_cache
from cache.reader import CacheReader

POLL_SECONDS = 0.001

MOMENTS = (
    "holding no claim",
    "computing",
    "writing a file",
    "between data and record",
    "holding a committed shard",
)
"""What a killed worker was doing, as its claim and its files tell."""


@dataclass(frozen=True)
class Plan:
    """What is to be survived.

    Attributes:
        kills: How many, unless the cache is complete before.
        workers: How many at once.
        seed: Of every random choice.
        early: Kills that come before any shard may be committed, the creation's among them.
    """

    kills: int
    workers: int = 1
    seed: int = 0
    early: int = 3


@dataclass(frozen=True)
class Tally:
    """What happened.

    Attributes:
        plan: What had been planned.
        kills: Workers killed while they ran.
        moments: Of these, by what they were doing, in words of :data:`MOMENTS`.
        logs: What every worker that ever ran has printed.
        seconds: Time until the cache was complete and all workers had ended.
    """

    plan: Plan
    kills: int
    moments: Counter[str]
    logs: list[str]
    seconds: float


class Supervisor:
    """Kills workers and starts others in their place."""

    def __init__(self, start: Callable[[int], Worker], reference: Cache, directory: Path) -> None:
        """Prepare a run.

        Args:
            start: Starts a worker, given a number that no other has.
            reference: The same cache, filled without interruption somewhere else.
            directory: Where the workers' cache is, or will be.
        """
        self._start = start
        self._reference = reference
        self._directory = directory
        self._everyone: list[Worker] = []
        self._waited = 0
        self._records: dict[str, tuple[int, int]] = {}

    def run(self, plan: Plan) -> Tally:
        """Let the workers fill the cache, killing them as planned.

        Raises:
            AssertionError: A worker failed, or a committed shard vanished or was done again.
        """
        chance = random.Random(plan.seed)  # noqa: S311 - repeatable, not secret
        moments: Counter[str] = Counter()
        began = time.monotonic()
        crew = [self._begin() for _ in range(plan.workers)]
        try:
            while (done := moments.total()) < plan.kills:
                goal, signs = self._draw(chance, plan, done)
                if not self._await(crew, goal, signs):
                    break
                time.sleep(chance.uniform(0, 0.003))
                victim = chance.randrange(plan.workers)
                crew[victim].kill()
                if crew[victim].poll() != -signal.SIGKILL:
                    break  # it was quicker, and then the cache is complete
                moments[self._find_moment(crew[victim].pid)] += 1
                self.check_records()
                crew[victim] = self._begin()
            for worker in crew:
                finish(worker)
        finally:
            for worker in crew:
                worker.kill()
        self.check_records()
        logs = [worker.read_log() for worker in self._everyone]
        return Tally(plan, moments.total(), moments, logs, time.monotonic() - began)

    def check_records(self) -> None:
        """Check that whatever was committed before is so still, by the very same file.

        Raises:
            AssertionError: A commit record vanished, or was written again.
        """
        now = {}
        for name in self._committed():
            status = (self._directory / "commits" / name).stat()
            now[name] = (status.st_ino, status.st_mtime_ns)
        assert self._records.items() <= now.items(), "a committed shard was lost or done again"
        self._records = now

    def _begin(self) -> Worker:
        worker = self._start(len(self._everyone))
        self._everyone.append(worker)
        return worker

    def _draw(self, chance: random.Random, plan: Plan, done: int) -> tuple[int, int]:
        """Draw the next instant: after so many shards, and so many signs of life after that."""
        there = len(self._committed())
        # Some shards are kept for the time after the last kill, or that might come too late.
        spare = self._reference.shards * 9 // 10 - there
        # A kill itself takes time, in which shards are done that no wait need be for.
        lost = max(0, there - self._waited) / max(1, done)
        mean = spare / (plan.kills - done) - lost
        if done < plan.early or mean <= 0:
            return there, chance.randint(0, 2 if there else 12)
        goal = there + round(chance.expovariate(1 / mean))
        self._waited += goal - there
        return goal, chance.randint(0, 8)

    def _await(self, crew: list[Worker], goal: int, signs: int) -> bool:
        """Wait for an instant; return whether it came before the cache was complete."""
        last, look = time.monotonic(), self._look()
        while True:
            for worker in crew:
                if (code := worker.poll()) is not None:
                    assert code == 0, f"a worker ended with {code}:\n{worker.read_log()}"
                    return False
            before, look = look, self._look()
            if look != before:
                last = time.monotonic()
            if len(look[-1]) >= goal:
                signs -= look != before
                if signs < 0:
                    return True
            assert time.monotonic() - last < PATIENCE, f"nothing happens in {self._directory}"
            time.sleep(POLL_SECONDS)

    def _look(self) -> tuple[list[str], ...]:
        parts = ("", "tmp", "claims", "commits")
        return tuple(_names(self._directory / part) for part in parts)

    def _committed(self) -> list[str]:
        return _names(self._directory / "commits")

    def _find_moment(self, pid: int) -> str:
        for name in _names(self._directory / "claims"):
            if name[0].isdigit() and _holder(self._directory / "claims" / name) == pid:
                return self._find_stage(int(name.removesuffix(".lock")))
        return MOMENTS[0]

    def _find_stage(self, shard: int) -> str:
        if (self._directory / record_path(shard)).exists():
            return MOMENTS[4]
        columns = self._reference.layout.columns
        paths = [object_path(name, column, shard) for name, column in columns.items()]
        stems = tuple(f"{path}/".replace("/", ".") for path in (*paths, record_path(shard)))
        if any(name.startswith(stems) for name in _names(self._directory / "tmp")):
            return MOMENTS[2]
        there = [(self._directory / path).exists() for path in paths]
        return MOMENTS[3] if all(there) else MOMENTS[2] if any(there) else MOMENTS[1]


def compare(reference: Cache, directory: Path) -> None:
    """Check that a cache is the one that was filled without interruption, to the last byte.

    Args:
        reference: That cache.
        directory: The cache to be checked.

    Raises:
        AssertionError: A row is missing, twice or different, or something was left behind.
    """
    found = open_cache(directory, reference.fingerprint)
    assert found.is_complete
    assert found.live_claims() == []
    assert _names(directory / "tmp") == []
    assert _names(directory / "commits") == _names(_directory(reference) / "commits")
    assert _tree(directory) == _tree(_directory(reference))
    group = zarr.open_group(directory / "rows", mode="r")
    columns = {name: group[name][:] for name in reference.layout.columns}
    assert len(set(columns["seed"].tolist())) == reference.layout.rows
    ours, theirs = CacheReader(found), CacheReader(reference)
    for shard in theirs.shards:
        rows = reference.rows_of(shard)
        read, wanted = ours.read_shard(shard), theirs.read_shard(shard)
        for name, values in columns.items():
            part = values[rows.start : rows.stop].tobytes()
            assert part == read[name].tobytes() == wanted[name].tobytes()


def _directory(cache: Cache) -> Path:
    return Path(str(cache.place))


def _tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for part in ("rows", "attachments")
        for path in (directory / part).rglob("*")
        if path.is_file()
    }


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(directory))
    except FileNotFoundError:
        return []


def _holder(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["pid"])
    except (FileNotFoundError, ValueError, KeyError):
        return 0
