"""Every command ends within seconds of a signal, whatever it is at: real processes, slow models."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copyfile

import pytest
import transformers as hf
from processes import Forked, Result, start, wait_for
from tiny import make_tokenizer

from pipeline import console, stopping
from pipeline.console import Console
from stages.checkpoints import load_tokenizer
from stages.classify import Classifier
from stages.export import onnx
from stages.records import RECORD
from stages.reporter import Interrupted

SECONDS = 5.0
"""Longest time from a signal to the end."""

LARGE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def slow_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("slow") / "llm", make_tokenizer()
    config = hf.LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=8, **LARGE)
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def slow_student(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("slow") / "student", load_tokenizer(student)
    config = hf.BertConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=8,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
        **LARGE,
    )
    hf.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    copyfile(student / RECORD, folder / RECORD)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    path.write_text("text,label\n" + "a good bad good bad good film,good\n" * 20_000)
    return path


@pytest.fixture(autouse=True)
def _talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are named at once, so that a test knows which one is under way."""
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(console, "TICK_SECONDS", 0.02)


def stop_at(folder: Path, step: str, number: int, *command: object) -> Result:
    """Run a command, send a signal while it is at a step, and return how it ended."""
    child, err = Forked(folder, *command), folder / "stderr"
    try:
        wait_for(lambda: err.exists() and step in err.read_text())
        child.kill(number)
        began = time.monotonic()
        found = child.wait()
    except BaseException:
        child.kill(signal.SIGKILL)
        raise
    assert time.monotonic() - began < SECONDS
    assert found.code == 130
    assert "Traceback" not in found.err
    assert found.err.splitlines()[-1].startswith("stopped")
    return found


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGINT, "trying ways to run the model,"),
        (signal.SIGTERM, "average next-token distribution: 2"),
        (signal.SIGINT, "self-generated texts: "),
        (signal.SIGTERM, "answers to self-generated texts: "),
        (signal.SIGINT, "finding the fastest batch,"),
        (signal.SIGTERM, "sample: "),
        (signal.SIGINT, "teacher: "),
        (signal.SIGINT, "speed: "),
    ],
)
def test_teacher(number: int, step: str, slow_llm: Path, mood: Path, tmp_path: Path) -> None:
    own = 64 if "self" in step else 0
    sampler = "unigram" if "average" in step else "vocabulary"
    options = ("--sampler", sampler, "--self-generated", own, "--cache", tmp_path / "cache")
    options += ("--rows", 1024, "--dry-run") if step == "speed: " else ("--rows", 1024)
    if "batch" not in step:
        options = (*options, "--batch-positions", 256)
    command = ("teacher", "--task", mood, "--model", slow_llm, *options)
    assert "the same command continues" in stop_at(tmp_path / "1", step, number, *command).err
    assert step != "speed: " or not (tmp_path / "cache").exists()


def test_student_continues_with_what_it_was_at(
    filled: tuple[Path, object], mood: Path, tmp_path: Path
) -> None:
    """A few long steps."""
    encoder, out, unbroken = (tmp_path / name for name in ("encoder", "out", "unbroken"))
    large = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    config = hf.BertConfig(vocab_size=50, num_attention_heads=4, **large)
    hf.BertModel(config).save_pretrained(encoder)
    train = ("student", "--task", mood, "--arch", encoder, "--cache", filled[0])
    train += ("--steps", 3, "--log-every", 2, "--batch-size", 64, "--checkpoint-every", 100)
    stopped = stop_at(tmp_path / "1", "student: 1 of", signal.SIGINT, *train, "--out", out)
    assert "continues" in stopped.err and not out.exists()
    again = Forked(tmp_path / "2", *train, "--out", out).wait()
    assert again.code == 0 and "continuing at step" in again.err
    whole = Forked(tmp_path / "3", *train, "--out", unbroken).wait()
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, unbroken)]
    assert weights[0] == weights[1]
    lines = [line for line in again.err.splitlines() if line.startswith("step 2:")]
    assert lines and lines[0] in whole.err


def test_evaluate(
    slow_llm: Path, slow_student: Path, mood: Path, texts: Path, tmp_path: Path
) -> None:
    common = ("evaluate", "--task", mood, "--data", texts)
    stop_at(tmp_path / "1", "teacher: ", signal.SIGINT, *common, "--teacher", slow_llm)
    stop_at(tmp_path / "2", "student: 64", signal.SIGTERM, *common, "--model", slow_student)


@pytest.mark.parametrize("step", ["writing onnx/model.onnx,", "comparing,"])
def test_export(
    step: str,
    slow_student: Path,
    exported: tuple[Path, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, out = slow_student, tmp_path / "out"
    if not step.startswith("writing"):
        # The graph is there already, which is not what is tested, and slow to answer.
        model, file, answer = exported[0], exported[0] / "onnx/model.onnx", Classifier.answer
        monkeypatch.setattr(onnx, "export_onnx", lambda _, to: copyfile(file, to))
        monkeypatch.setattr(Classifier, "answer", lambda *a: time.sleep(0.05) or answer(*a))
    stop_at(tmp_path / "1", step, signal.SIGINT, "export", "--model", model, "--out", out)
    assert list(tmp_path.iterdir()) == [tmp_path / "1"], "nothing half-written is left"


def test_report(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.report.figures.draw_figures", lambda *given: spin())
    command = ("report", "--students", student.parent, "--out", tmp_path / "out")
    stop_at(tmp_path / "1", "drawing figures,", signal.SIGTERM, *command)
    assert not (tmp_path / "out").exists()


def test_tag(slow_student: Path, texts: Path, tmp_path: Path) -> None:
    stop_at(tmp_path / "1", "input: ", signal.SIGTERM, "tag", "--model", slow_student, texts)


def test_verify_and_show(
    filled: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache.directory import Cache

    read = Cache.read_column
    monkeypatch.setattr(Cache, "read_column", lambda *given: time.sleep(0.3) or read(*given))
    for name, command in (("verify", ()), ("reading", next(filled[0].glob("*/*")))):
        options = ("verify",) if not command else ("show", command)
        stop_at(tmp_path / name, name, signal.SIGINT, "cache", *options, "--cache", filled[0])


def test_a_large_file_that_is_hashed(slow_llm: Path, mood: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in slow_llm.iterdir():
        os.link(file, tmp_path / "model" / file.name)
    with (tmp_path / "model/more.safetensors").open("wb") as file:
        file.truncate(60 * 2**30)  # of no bytes on the disk
    command = ("teacher", "--task", mood, "--model", tmp_path / "model", "--cache", tmp_path / "c")
    stop_at(tmp_path / "1", "weights: ", signal.SIGINT, *command)


def test_a_download_from_a_hub_that_does_not_answer(mood: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        patience = {"HF_HUB_ETAG_TIMEOUT": "100", "HF_HUB_DOWNLOAD_TIMEOUT": "100"}
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"} | patience
        command = ("teacher", "--task", mood, "--model", "some/model")
        process = start(*command, cwd=tmp_path, env=environment)
        hub.accept()
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < SECONDS
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "stopped; the same command continues"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_a_command_listens(number: int, mood: Path, tmp_path: Path) -> None:
    process = start("teacher", "--task", mood, "--dry-run", cwd=tmp_path)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch" in maps.read_text() or "_multiarray" in maps.read_text())
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (b"Traceback" not in err and err.split()[-1] == b"stopped") or b"continues" in err


def spin() -> None:
    while True:
        time.sleep(0.01)


def wait_in_a_library() -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


def swallow() -> None:
    while True:
        with suppress(Exception):
            spin()


def lose_the_first() -> None:
    with suppress(BaseException):
        spin()
    spin()


@pytest.mark.parametrize("work", [spin, wait_in_a_library, swallow, lose_the_first])
def test_where_there_is_no_safe_point(
    work: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.2)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with Console().catch_signals():
                os.write(writer, b"!")
                try:
                    work()
                finally:
                    os.write(2, b"tidied\n")
        except Interrupted as stop:
            os.write(2, f"{stop}\n".encode())
            os._exit(130)
        finally:
            os._exit(1)
    os.read(reader, 1)
    time.sleep(0.05)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: "once more" in capfd.readouterr().err, 1.0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    err = capfd.readouterr().err
    assert "stopped\n" in err and ("tidied" in err) == (work is not wait_in_a_library)


def test_a_second_signal_ends_a_library_s_code_at_once() -> None:
    pid = os.fork()
    if pid == 0:
        os.close(2)  # nor does it matter that there is nobody to tell
        with Console().catch_signals():
            wait_in_a_library()
    time.sleep(0.3)
    began = time.monotonic()
    for _ in range(2):
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert time.monotonic() - began < 2.0
