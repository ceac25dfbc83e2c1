"""Processes that can be killed: forked from this one, or started as commands."""

from __future__ import annotations

import multiprocessing.context
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

PATIENCE = 600.0
"""Seconds after which a process that should end, or do something, is given up."""


class Forked(multiprocessing.context.ForkProcess):
    """A child of this process that runs a function, which saves it every import."""

    def __init__(self, work: Callable[[], object], log: Path) -> None:
        super().__init__(target=_run, args=(work, log))
        self._log = log
        log.write_text("")  # by the parent, since the child may not come so far
        self.start()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        return self.exitcode

    def kill(self) -> None:
        """Kill it, and have it gone on return."""
        super().kill()
        self.join()

    def read_log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text()


def _run(work: Callable[[], object], log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    work()


class Spawned:
    """A command in a process and a process group of its own, as a terminal starts it."""

    def __init__(self, command: Iterable[object], log: Path, cwd: Path) -> None:
        self._log = log
        self._orphans: list[psutil.Process] = []
        with log.open("wb") as out:
            self._process = psutil.Popen(
                list(map(str, command)),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        code: int | None = self._process.poll()
        return code

    def kill(self) -> None:
        """Kill it, and have it gone on return; what it has started lives on."""
        if self.poll() is None:
            self._process.suspend()  # or it might start another meanwhile
            self._orphans += self._process.children(recursive=True)
            self._process.kill()
            self._process.wait()

    def kill_tree(self) -> None:
        """Kill what is left of it and of all that it has started, and have that gone on return."""
        self.kill()
        while found := self.find_orphans():
            for orphan in found:
                with suppress(psutil.NoSuchProcess):
                    self._orphans += orphan.children(recursive=True)
                    orphan.kill()
            time.sleep(0.001)

    def find_children(self) -> list[psutil.Process]:
        """Return what it has itself started and what is alive."""
        with suppress(psutil.NoSuchProcess):
            return list(filter(is_alive, self._process.children()))
        return []

    def find_orphans(self) -> list[psutil.Process]:
        """Return what has outlived it and is alive still."""
        return list(filter(is_alive, self._orphans))

    def read_log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text()


Worker = Forked | Spawned


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process runs: it is neither gone nor waiting for its parent to notice."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def finish(worker: Worker, wanted: int = 0) -> None:
    """Wait for the end of a worker; assert that it comes in time, with this exit code."""
    deadline = time.monotonic() + PATIENCE
    while (code := worker.poll()) is None:
        assert time.monotonic() < deadline, f"never ends:\n{worker.read_log()}"
        time.sleep(0.005)
    assert code == wanted, f"ended with {code}:\n{worker.read_log()}"
