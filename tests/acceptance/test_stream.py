"""``pipeline tag`` as a user's process, with a pipe on either side."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from processes import Forked, Result, start


def read_answers(stdout: IO[bytes]) -> queue.Queue[dict[str, Any]]:
    answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in stdout:
            answers.put(json.loads(line))

    threading.Thread(target=read, daemon=True).start()
    return answers


def send(stdin: IO[bytes], data: bytes) -> None:
    stdin.write(data)
    stdin.flush()


def test_a_slow_stream_is_answered_line_by_line_and_ends_with_it(
    exported: tuple[Path, Result], tmp_path: Path
) -> None:
    # Answers are UTF-8 even where Python has been told otherwise.
    environment, model = os.environ | {"PYTHONIOENCODING": "ascii"}, exported[0] / "onnx/model.onnx"
    process = start("tag", "--model", model, "--all", cwd=tmp_path, env=environment)
    assert process.stdin is not None and process.stdout is not None
    answers = read_answers(process.stdout)
    for raw, text in [
        (b"Good film\n", "Good film"),
        (b"\n  \nBad\n", "Bad"),
        ("😀 שלום\n".encode(), "😀 שלום"),
        (b"caf\xe9\n", "caf\ufffd"),
        (b"Good " * 20_000 + b"\n", "Good " * 20_000),
    ]:
        send(process.stdin, raw)
        # The next line is not written before this one is answered.
        answer = answers.get(timeout=60)
        assert answer["text"] == text
        assert answer["label"] is not None
    send(process.stdin, b"no line end")
    process.stdin.close()
    assert answers.get(timeout=60)["text"] == "no line end"
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    device, kind, blank = process.stderr.read().decode().splitlines()
    assert device.startswith("device: ")
    assert kind == "input: plain text (auto: by its first line)"
    assert blank == "blank lines skipped: 2"


def test_a_signal_ends_a_waiting_stream_with_130_and_no_traceback(
    student: Path, tmp_path: Path
) -> None:
    process = Forked(tmp_path, "tag", "--model", student, pipes=True)
    answers = read_answers(process.stdout)
    send(process.stdin, b"Good\n")
    answers.get(timeout=60)
    # It waits for more, whatever it has been answered.
    process.kill(signal.SIGINT)
    ended = process.wait()
    assert ended.code == 130
    assert ended.err.endswith("stopped\n")  # nothing of it would continue
    assert "Traceback" not in ended.err and "Fatal" not in ended.err


def test_a_closed_standard_input_is_named(exported: tuple[Path, Result], tmp_path: Path) -> None:
    command = ("tag", "--model", exported[0] / "onnx/model.onnx")
    process = start(*command, cwd=tmp_path, stdin=None, preexec_fn=lambda: os.close(0))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.decode().endswith("standard input is closed; name a FILE\n")


def test_a_reader_who_has_had_enough_is_no_traceback(student: Path, tmp_path: Path) -> None:
    process = Forked(tmp_path, "tag", "--model", student, pipes=True)
    send(process.stdin, b"Good\n" * 3)
    process.stdout.readline()
    process.stdout.close()
    with suppress(BrokenPipeError):
        send(process.stdin, b"Good\n" * 50_000)
    with suppress(BrokenPipeError):
        process.stdin.close()
    ended = process.wait(120)
    assert ended.code in (1, 141, -signal.SIGPIPE)
    assert ended.err.splitlines()[2:] == []
