"""A process that measures the rows of one part, so that none can harm or delay the others."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Setting:
    """How everything is measured: a device of torch, tiny models or not, and pytest's ``-k``."""

    device: str
    quick: bool = False
    tests: str = ""


@dataclass
class Found:
    """What a row gave.

    Attributes:
        lines: Lines of the table: ``name``, and figures by the key of their column.
        notes: Sentences below the table.
        why: What is wrong, where something is.
    """

    lines: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    why: str = ""


class Worker:
    """The parent's side of a process.

    Args:
        module: Has a class ``Part``, which is made of a setting and measures rows by name.
        setting: How.
    """

    def __init__(self, module: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, module, setting))
        self._process.start()
        other.close()

    def measure(self, name: str, limit: float) -> Found:
        """Have a row measured within some seconds; whatever fails, the answer says so."""
        try:
            self._end.send((name, limit))
            if self._end.poll(limit):
                found: Found = self._end.recv()
                return found
        except (EOFError, OSError):
            self._process.join(5)
            return Found([], why=f"its process ended with code {self._process.exitcode}")
        return Found([], why=f"it was ended after {limit:.0f} s")

    def close(self) -> None:
        """End the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()  # where it has not come to have a group of its own
        self._process.join()


def _serve(end: Connection, module: str, setting: Setting) -> None:
    os.setsid()
    _die_with_parent()
    part = None
    with suppress(EOFError):
        while True:
            name, limit = end.recv()
            try:
                part = part or importlib.import_module(module).Part(setting)
                found = part.measure(name, limit)
            except Exception as error:  # a row of its own, whatever it was
                text = " ".join(str(error).split())[:300]
                found = Found([], why=f"{type(error).__name__}: {text}")
            end.send(found)


def run_beside(
    command: Sequence[str], limit: float, stop: signal.Signals = signal.SIGKILL
) -> tuple[int, str]:
    """Run a command; show what it said; when its time is up, ask it to end by a signal.

    Returns:
        Its code, negative after a signal, and the last line that it said.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_die_with_parent,
    )
    for seconds, last in ((limit, stop), (10.0, signal.SIGKILL), (None, None)):
        try:
            text, _ = process.communicate(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(last or signal.SIGKILL)
    print(text, flush=True)
    return process.returncode, (text.strip().splitlines() or [""])[-1]


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
