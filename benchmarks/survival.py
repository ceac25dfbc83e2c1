"""Caches that teachers and ``dvc repro`` fill while they are killed, for tests/acceptance.

Each is compared, byte by byte, with one that was filled without interruption.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from benchmarks.supervisor import Plan, Tally, compare, supervise
from benchmarks.workers import PATIENCE, Forked, Spawned, Worker, finish
from cache.opening import open_cache
from pipeline.cli import main
from pipeline.console import quieten_libraries
from stages.lm import load_language_model, resolve_model

TEACHER = ("teacher", "--task", "reddit", "--model", "mini", "--chunk-rows", "8")
TEACHER += ("--sampler", "vocabulary", "--self-generated", "0")
# What would be measured to be fastest need not be the same in every run.
TEACHER += ("--batch-positions", "512", "--dtype", "float32")
SHARD_ROWS = 16
DVC_YAML = """\
stages:
  teacher:
    cmd: {command}
    outs:
      - data/cache: {{cache: false, persist: true}}
"""


class Teachers:
    """``pipeline teacher`` with the mini teacher, and what it gives when nobody kills it.

    Args:
        folder: An empty directory.
        shards: Shards of the cache.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        quieten_libraries()
        # Once for all forks, with all that it imports.
        load_language_model(resolve_model("mini"), "cpu", "float32")
        self.folder = folder
        rows = ("--rows", shards * SHARD_ROWS, "--shard-rows", SHARD_ROWS)
        self.arguments = tuple(map(str, (*TEACHER, *rows)))
        with mock.patch.object(os, "fsync"):  # nobody is killed, and syncing changes no byte
            whole = self._fork(folder / "whole", folder / "whole.log")
        finish(whole)
        (directory,) = folder.glob("whole/reddit/*")
        self.reference = open_cache(directory)

    def survive(self, plan: Plan, name: str, fresh: bool = False) -> Tally:
        """Fill the cache while its workers are killed, and compare it.

        Args:
            plan: What is to be survived.
            name: Name of a directory for it.
            fresh: Whether workers are commands of their own, and not forks.

        Raises:
            AssertionError: A worker failed, or the cache is not the one it should be.
        """
        root = self.folder / name
        root.mkdir()
        directory = root / "reddit" / self.reference.manifest.directory

        def begin(number: int) -> Worker:
            log, command = root / f"{number}.log", (sys.executable, "-m", "pipeline")
            if fresh:
                return Spawned((*command, *self.arguments, "--cache", root), log, self.folder)
            return self._fork(root, log)

        tally = supervise(begin, self.reference, directory, plan)
        last = self._fork(root, root / "last.log")
        finish(last)
        assert "every row was there already" in last.read_log()
        tally.check_records(directory)
        compare(self.reference, directory)
        return tally

    def _fork(self, root: Path, log: Path) -> Worker:
        arguments = (*self.arguments, "--cache", str(root))
        return Forked(partial(_run_command, self.folder, arguments), log)


def _run_command(folder: Path, arguments: tuple[str, ...]) -> None:
    """Run the command line in this process, a fork, in a folder without a ``params.yaml``."""
    # A pool of threads is not forked with its threads, and torch, which makes another then, does
    # not expect several to ask for it at once, as transformers does when it loads a model.
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = ["pipeline", *arguments]
    main()


def survive_repro(teachers: Teachers, plan: Plan) -> tuple[Tally, int]:
    """Fill a cache by ``dvc repro`` while that, and not its teacher, is killed; and compare it.

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
    started: list[Spawned] = []
    orphans = 0

    def begin(number: int) -> Worker:
        nonlocal orphans
        orphans += bool(started and started[-1].find_orphans())
        # One orphan at most is left beside it, or orphans would be done before the kills are.
        for repro in started[:-1]:
            repro.kill_tree()
        started.append(Spawned((*dvc, "repro"), folder / f"{number}.log", folder))
        return started[-1]

    directory = folder / "data/cache/reddit" / teachers.reference.manifest.directory
    try:
        tally = supervise(begin, teachers.reference, directory, plan)
        deadline = time.monotonic() + PATIENCE
        while any(repro.find_orphans() for repro in started):
            assert time.monotonic() < deadline, "an orphan never ends"
            time.sleep(0.05)
    finally:
        for repro in started:
            repro.kill_tree()
    compare(teachers.reference, directory)
    return tally, orphans
