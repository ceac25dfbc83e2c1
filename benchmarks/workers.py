"""Processes that a supervisor can kill: forked from this one, or started as commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

PATIENCE = 600.0
"""Seconds after which a process that should end, or do something, is given up."""


class Worker(Protocol):
    """Something that fills a cache and can be killed."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""

    def kill(self) -> None:
        """Kill it, and have it gone on return."""

    def read_log(self) -> str:
        """Return what it has printed."""


class Forked:
    """A child of this process that runs a function, which saves it every import.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, work: Callable[[], object], log: Path) -> None:
        self._log, self._code = log, -1
        log.write_text("")  # by the parent, since the child may not come so far
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        if self._code == -1:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if not pid:
                return None
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def kill(self) -> None:
        """Kill it, and have it gone on return."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)

    def read_log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text()

    def _run(self, work: Callable[[], object]) -> None:
        code = 70
        try:
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND)
            for source, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
                os.dup2(source, stream)
            sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)


class Spawned:
    """A command in a process and a process group of its own, as a terminal starts it.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, command: Iterable[object], log: Path, cwd: Path, **env: str) -> None:
        self._log = log
        self._orphans: list[psutil.Process] = []
        with log.open("wb") as out:
            self._process = psutil.Popen(
                list(map(str, command)),
                cwd=cwd,
                env=os.environ | env,
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
        """Kill it as :meth:`kill_alone` does."""
        self.kill_alone()

    def kill_alone(self) -> None:
        """Kill it, and have it gone on return; what it has started lives on."""
        if self.poll() is None:
            self._process.suspend()  # or it might start another meanwhile
            self._orphans += self._process.children(recursive=True)
            self._process.kill()
            self._process.wait()

    def kill_tree(self) -> None:
        """Kill what is left of it and of all that it has started, and have that gone on return."""
        self.kill_alone()
        while found := self.find_orphans():
            for orphan in found:
                with suppress(psutil.NoSuchProcess):
                    self._orphans += orphan.children(recursive=True)
                    orphan.kill()
            time.sleep(0.001)

    def find_children(self) -> list[psutil.Process]:
        """Return what it has itself started and what is alive."""
        with suppress(psutil.NoSuchProcess):
            return [child for child in self._process.children() if is_alive(child)]
        return []

    def find_orphans(self) -> list[psutil.Process]:
        """Return what has outlived it and is alive still."""
        return [orphan for orphan in self._orphans if is_alive(orphan)]

    def read_log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text()


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process runs: it is neither gone nor waiting for its parent to notice."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def finish(worker: Worker, wanted: int = 0) -> None:
    """Wait for the end of a worker, and for this exit code.

    Raises:
        AssertionError: It ended otherwise, or does not end.
    """
    deadline = time.monotonic() + PATIENCE
    while (code := worker.poll()) is None:
        assert time.monotonic() < deadline, f"never ends:\n{worker.read_log()}"
        time.sleep(0.005)
    assert code == wanted, f"ended with {code}:\n{worker.read_log()}"
