"""``pipeline tag`` as a user's process, with a pipe on either side."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import start

Process = subprocess.Popen[bytes]


@pytest.fixture
def open_stream(student: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts the command, and ends it when a test did not."""
    begun: list[Process] = []

    def begin(*options: str, **environment: str) -> Process:
        command = ("tag", "--model", student, *options)
        begun.append(start(*command, cwd=tmp_path, env=os.environ | environment))
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def read_answers(process: Process) -> queue.Queue[dict[str, Any]]:
    answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(json.loads(line))

    threading.Thread(target=read, daemon=True).start()
    return answers


def send(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def test_a_slow_stream_is_answered_line_by_line_and_ends_with_it(
    open_stream: Callable[..., Process],
) -> None:
    # Answers are UTF-8 even where Python has been told otherwise.
    process = open_stream("--all", PYTHONIOENCODING="ascii")
    answers = read_answers(process)
    for raw, text in [
        (b"Good film\n", "Good film"),
        (b"\n  \nBad\n", "Bad"),
        ("😀 שלום\n".encode(), "😀 שלום"),
        (b"caf\xe9\n", "caf\ufffd"),
        (b"Good " * 20_000 + b"\n", "Good " * 20_000),
    ]:
        send(process, raw)
        # The next line is not written before this one is answered.
        answer = answers.get(timeout=60)
        assert answer["text"] == text
        assert answer["label"] is not None
    assert process.stdin is not None
    send(process, b"no line end")
    process.stdin.close()
    assert answers.get(timeout=60)["text"] == "no line end"
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    device, kind, blank = process.stderr.read().decode().splitlines()
    assert device.startswith("device: ")
    assert kind == "input: plain text (auto: by its first line)"
    assert blank == "blank lines skipped: 2"


def test_a_signal_ends_a_waiting_stream_with_130_and_no_traceback(
    open_stream: Callable[..., Process],
) -> None:
    process = open_stream()
    answers = read_answers(process)
    send(process, b"Good\n")
    answers.get(timeout=60)
    # It waits for more, whatever it has been answered.
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert said.endswith("stopped\n")  # nothing of it would continue
    assert "Traceback" not in said
    assert "Fatal" not in said


def test_a_closed_standard_input_is_named(student: Path, tmp_path: Path) -> None:
    process = start(
        "tag", "--model", student, cwd=tmp_path, stdin=None, preexec_fn=lambda: os.close(0)
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.decode().endswith("standard input is closed; name a FILE\n")


def test_a_reader_who_has_had_enough_is_no_traceback(
    open_stream: Callable[..., Process],
) -> None:
    process = open_stream()
    assert process.stdout is not None
    assert process.stdin is not None
    send(process, b"Good\n" * 3)
    process.stdout.readline()
    process.stdout.close()
    try:
        send(process, b"Good\n" * 50_000)
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(timeout=120) in (1, 141, -signal.SIGPIPE)
    assert process.stderr is not None
    assert process.stderr.read().decode().splitlines()[2:] == []
