from __future__ import annotations

import errno
import os
import pty
import signal
import termios
import time

import pytest

from pipeline import console as module
from pipeline.console import Console
from stages.reporter import Interrupted


def read_to_the_end(leader: int) -> str:
    """Read a terminal whose other side is closed; the kernel hands its bytes over in parts."""
    parts = []
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(10_000):
                parts.append(part)
        except OSError as error:
            assert error.errno == errno.EIO  # how Linux says that nothing is left
    return b"".join(parts).decode()


def test_lines_and_warnings_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("a line")
    console.warn("a warning")
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "a line\nwarning: a warning\n"


def test_where_there_is_no_terminal_progress_is_a_line_at_intervals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    with Console().track("teacher", 1000, 100, "row") as advance:
        advance(0)
        # Before the first one is done no rate is made up.
        assert capsys.readouterr().err == "teacher: 100 of 1,000 rows, 0 s so far\n"
        advance(1)
    assert capsys.readouterr().err.startswith("teacher: 101 of 1,000 rows, ")
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.05)
    with Console().track("teacher", 1000, 100, "row") as advance:
        advance(1)
        assert capsys.readouterr().err == ""
        time.sleep(0.06)
        advance(299)
        advance(1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("teacher: 400 of 1,000 rows, ")
    assert line.endswith(" s left")
    rate, left = (float(part.split()[0].replace(",", "")) for part in line.split(", ")[1:])
    assert 300 / rate >= 0.05
    assert left == pytest.approx(600 / rate, abs=1)
    # What is silent is named all the same.
    monkeypatch.setattr(module, "PLAIN_SECONDS", 15.0)
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.05)
    with Console().track("loading the model", 1, 0, "model"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "loading the model, 0 s so far\n"


def test_on_a_terminal_progress_is_a_bar_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        console = Console()
        with console.track("teacher", 10, 4, "row") as advance:
            advance(2)
            console.say("a line above it")
            time.sleep(0.15)
            advance(2)
        monkeypatch.undo()
    found = read_to_the_end(leader)
    assert all(part in found for part in ("teacher:", "8/10", "rows/s", "a line above it\r\n"))


def test_ranks_that_share_a_terminal_have_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with Console().track("teacher", 10, 4, "row") as advance:
            advance(2)
        monkeypatch.undo()
    assert read_to_the_end(leader) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks_to_stop_and_handlers_are_put_back(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    console = Console()
    with console.catch_signals():
        console.check_stop()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted):
            console.check_stop()
        with console.track("teacher", 10, 4, "row") as advance, pytest.raises(Interrupted):
            advance(1)
    assert signal.getsignal(number) == before
    assert "once more to stop at once" in capfd.readouterr().err


def test_what_a_library_makes_of_a_stop_is_a_stop() -> None:
    with pytest.raises(Interrupted), Console().catch_signals():
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("recursion depth mismatch")
    with pytest.raises(RuntimeError), Console().catch_signals():
        raise RuntimeError("nobody asked for it")
