"""What survives: caches that teachers, ``dvc repro`` and bare writers fill while they are killed.

Each is compared, byte by byte, with one that was filled without interruption; any difference is an
AssertionError.
"""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.supervisor import Plan, Supervisor, Tally, compare
from benchmarks.workers import PATIENCE, Forked, Spawned, Worker, finish
from cache.directory import Cache
from cache.format import Layout, Manifest, answer_columns
from cache.opening import create_or_open, open_cache

TEACHER = ("teacher", "--task", "reddit", "--model", "mini", "--chunk-rows", "8")
TEACHER += ("--sampler", "vocabulary", "--self-generated", "0")
# What would be found by trial need not be the same in every run.
TEACHER += ("--batch-positions", "512", "--dtype", "float32")
SHARD_ROWS = 16
PAUSE = 0.1
"""Seconds in which a writer without a model does nothing, so that kills find it there too."""

DVC_YAML = """\
stages:
  teacher:
    cmd: {command}
    outs:
      - data/cache:
          cache: false
          persist: true
"""


class Teachers:
    """``pipeline teacher`` with the mini teacher, and what it gives when nobody kills it."""

    def __init__(self, folder: Path, shards: int) -> None:
        """Fill the cache once without interruption.

        Args:
            folder: An empty directory.
            shards: Shards of the cache.
        """
        warm_up()
        self.folder = folder
        rows = ("--rows", shards * SHARD_ROWS, "--shard-rows", SHARD_ROWS)
        self.arguments = tuple(map(str, (*TEACHER, *rows)))
        with unsynced():
            whole = self.fork(folder / "whole", folder / "whole.log")
        finish(whole)
        (directory,) = folder.glob("whole/reddit/*")
        self.reference = open_cache(directory)

    def fork(self, root: Path, log: Path) -> Worker:
        """Start a worker on the cache below a root, as a child of this process."""
        arguments = (*self.arguments, "--cache", str(root))
        return Forked(lambda: run_command(self.folder, arguments), log)

    def spawn(self, root: Path, log: Path) -> Worker:
        """Start a worker as a person does, as a command in a process of its own."""
        command = (sys.executable, "-m", "pipeline", *self.arguments, "--cache", root)
        return Spawned(command, log, self.folder)

    def survive(self, plan: Plan, name: str, fresh: bool = False) -> Tally:
        """Fill the cache while its workers are killed, and compare it.

        Args:
            plan: What is to be survived.
            name: Name of a directory for it.
            fresh: Whether workers are commands of their own.

        Raises:
            AssertionError: A worker failed, or the cache is not the one it should be.
        """
        root = self.folder / name
        root.mkdir()
        begin = self.spawn if fresh else self.fork
        directory = root / "reddit" / self.reference.manifest.directory
        supervisor = Supervisor(
            lambda number: begin(root, root / f"{number}.log"), self.reference, directory
        )
        tally = supervisor.run(plan)
        last = self.fork(root, root / "last.log")
        finish(last)
        assert "every row was there already" in last.read_log()
        supervisor.check_records()
        compare(self.reference, directory)
        return tally


class Repro(Spawned):
    """``dvc repro``, of which either dvc alone is killed, or all that it has started too.

    Attributes:
        orphaned: Whether a teacher outlived its dvc.
    """

    def __init__(self, folder: Path, log: Path, alone: bool) -> None:
        super().__init__((sys.executable, "-m", "dvc", "repro"), log, folder)
        self._alone = alone
        self.orphaned = False

    def kill(self) -> None:
        """Kill dvc, or the whole tree."""
        if not self._alone:
            self.kill_tree()
            return
        self.kill_alone()
        self.orphaned = bool(self.find_orphans())


def survive_repro(teachers: Teachers, plan: Plan) -> tuple[Tally, int]:
    """Fill a cache by ``dvc repro`` while that is killed, and compare it.

    Returns:
        What happened, and how many teachers became orphans.

    Raises:
        AssertionError: The last ``dvc repro`` failed, or the cache is not the one it should be.
    """
    folder = teachers.folder / "dvc"
    folder.mkdir()
    command = shlex.join((sys.executable, "-m", "pipeline", *teachers.arguments))
    (folder / "dvc.yaml").write_text(DVC_YAML.format(command=command))
    dvc = (sys.executable, "-m", "dvc")
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    chance = random.Random(plan.seed)  # noqa: S311 - repeatable, not secret
    started: list[Repro] = []

    def begin(number: int) -> Worker:
        # One orphan at most is left beside it, or orphans would be done before the kills are.
        for repro in started[:-1]:
            repro.kill_tree()
        started.append(Repro(folder, folder / f"{number}.log", chance.random() < 0.7))
        return started[-1]

    directory = folder / "data/cache/reddit" / teachers.reference.manifest.directory
    try:
        tally = Supervisor(begin, teachers.reference, directory).run(plan)
        deadline = time.monotonic() + PATIENCE
        while any(repro.find_orphans() for repro in started):
            assert time.monotonic() < deadline, "an orphan never ends"
            time.sleep(0.05)
    finally:
        for repro in started:
            repro.kill_tree()
    compare(teachers.reference, directory)
    return tally, sum(repro.orphaned for repro in started)


def survive_contention(folder: Path, plan: Plan, shards: int) -> Tally:
    """Fill a cache without a model, by writers that do little but write, and compare it.

    Raises:
        AssertionError: A shard was lost, or written twice, or is not as it should be.
    """
    with unsynced():
        reference = write_shards(folder / "whole", shards, 0)
    directory = folder / "cache" / reference.manifest.directory
    supervisor = Supervisor(
        lambda number: Forked(
            lambda: write_shards(folder / "cache", shards, PAUSE, _tell), folder / f"{number}.log"
        ),
        reference,
        directory,
    )
    tally = supervisor.run(plan)
    write_shards(folder / "cache", shards, 0)
    supervisor.check_records()
    compare(reference, directory)
    printed = [int(line) for log in tally.logs for line in log.split()]
    assert len(printed) == len(set(printed)), "a shard was committed by two writers"
    # A kill may come between a commit and its line.
    assert shards - tally.kills <= len(printed) <= shards
    return tally


def write_shards(
    root: Path, shards: int, pause: float, tell: Callable[[int], object] = lambda shard: None
) -> Cache:
    """Fill a cache whose rows follow from their numbers.

    Args:
        root: Where the cache lies, or is to lie.
        shards: Its shards.
        pause: Seconds that computing a shard would take.
        tell: Told of every shard that is committed.
    """
    layout = Layout(shards * SHARD_ROWS, SHARD_ROWS // 2, SHARD_ROWS, answer_columns(2, None))
    cache = create_or_open(root, Manifest("contention", {"model": "none"}, layout), lambda: {})
    while not cache.is_complete:
        claim = cache.claim_next()
        if claim is None:
            time.sleep(0.005)
            continue
        with claim:
            time.sleep(pause)
            rows = np.array(cache.rows_of(claim.shard), np.uint64)
            logits = np.sin(rows[:, None] + np.arange(2)).astype(np.float32)
            columns = {
                "seed": rows * np.uint64(0x9E3779B97F4A7C15),
                "length": (rows // np.uint64(SHARD_ROWS // 2) % np.uint64(7) + 1).astype(np.int32),
                "logits": logits,
                "probabilities": np.abs(logits),
            }
            cache.commit(claim, columns, 0.0)
            tell(claim.shard)
    return cache


def _tell(shard: int) -> None:
    print(shard, flush=True)


def unsynced() -> AbstractContextManager[object]:
    """Save the time of syncing, which changes no byte, where nobody is killed."""
    return mock.patch.object(os, "fsync")


def warm_up() -> None:
    """Import and load, once for all forks, what a teacher imports and loads."""
    from pipeline.console import quieten_libraries
    from stages.lm import load_language_model, resolve_model
    from stages.loading import load_tokenizer

    quieten_libraries()
    folder = resolve_model("mini")
    load_tokenizer(folder)
    load_language_model(folder, "cpu", "float32")


def run_command(folder: Path, arguments: tuple[str, ...]) -> None:
    """Run the command line in this process, a fork, which it ends.

    Args:
        folder: Working directory: one without a ``params.yaml``.
        arguments: The command.
    """
    import torch

    from pipeline.cli import main

    # A pool of threads is not forked with its threads, and torch, which makes another then, does
    # not expect several to ask for it at once, as transformers does when it loads a model.
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = ["pipeline", *arguments]
    main()
