"""Commands as processes of their own: forked, which saves importing torch, or started afresh."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from pipeline.cli import main


@dataclass
class Result:
    code: int
    out: str
    err: str


class Forked:
    """A child of this process that runs the command line; its output goes to files.

    With ``pipes`` it is spoken to and answers through ``stdin`` and ``stdout``.
    """

    def __init__(self, folder: Path, *arguments: object, pipes: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ends = [*os.pipe(), *os.pipe()] if pipes else []
        self._out, self._err = folder / "stdout", folder / "stderr"
        self.pid = os.fork()
        if self.pid == 0:
            self._run(list(map(str, arguments)))
        if pipes:
            theirs, ours, self._ends = self._ends[::3], self._ends[1:3], []
            self.stdin, self.stdout = os.fdopen(ours[0], "wb"), os.fdopen(ours[1], "rb")
            for end in theirs:
                os.close(end)

    def wait(self, seconds: float = 60.0) -> Result:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return Result(code, self._out.read_text(), self._err.read_text())
            time.sleep(0.01)
        self.kill(signal.SIGKILL)
        raise AssertionError(f"still running after {seconds} s: {self._err.read_text()}")

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def _run(self, arguments: list[str]) -> None:
        code = 70
        try:
            for stream, path in ((1, self._out), (2, self._err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if self._ends:
                os.dup2(self._ends[0], 0)
                os.dup2(self._ends[3], 1)
                for end in self._ends:
                    os.close(end)
            sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["pipeline", *arguments]
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                if not stream.closed:
                    with suppress(BrokenPipeError):
                        stream.flush()
            os._exit(code)


def run_here(*arguments: object, stdin: bytes = b"") -> Result:
    """Run the command line in this process; what would be a traceback is raised."""
    with (
        tempfile.TemporaryFile() as given,
        CliRunner().isolation() as (out, err, _),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(given)),
        mock.patch.object(sys, "argv", ["pipeline", *map(str, arguments)]),
    ):
        given.write(stdin)
        given.seek(0)
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Result(code, out.getvalue().decode(), err.getvalue().decode())


def start(*arguments: object, cwd: Path, **options: object) -> subprocess.Popen[bytes]:
    """Start the command line as a user does, in a fresh process."""
    pipe = subprocess.PIPE
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        **{"cwd": cwd, "stdin": pipe, "stdout": pipe, "stderr": pipe} | options,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.002)
