"""A student on the device: trained, killed and continued, written, and exported."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("zarr")
pytest.importorskip("accelerate")

from processes import start, wait_for
from tiny import make_student_config, write_encoder

from stages.export import stage as publishing
from stages.export.stage import ExportConfig, export_student
from stages.records import read_record
from stages.reporter import Interrupted, SilentReporter
from stages.student.stage import run_student
from stages.classify.torch_classifier import load_torch_classifier

if TYPE_CHECKING:
    from stages.teacher.stage import TeacherResult

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
STEPS = 40

Cached = tuple[Path, "TeacherResult"]


class StoppingReporter(SilentReporter):
    """Asks for a stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def check_stop(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted("asked to stop")


def answer(student: Path, device: str) -> np.ndarray:
    """What a written student says of random ids on the device."""
    classifier = load_torch_classifier(student, device)
    ids = np.random.default_rng(0).integers(8192, size=(200, 9))
    return classifier.answer(ids, np.ones_like(ids))


@pytest.fixture(scope="module")
def trained(
    cached: Cached, news: Path, device: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A student that was trained on the device without a break."""
    out = tmp_path_factory.mktemp("trained") / "student"
    config = make_student_config(news, cached[0], out, steps=STEPS, device=device)
    reporter = SilentReporter()
    run_student(config, reporter)
    assert any(line.startswith(f"device: {device}") for line in reporter.lines)
    precision = next(line for line in reporter.lines if line.startswith("precision: "))
    assert ("mixed" in precision) == (device == "cuda"), precision
    return out


def test_a_student_learns_its_teacher(trained: Path, device: str) -> None:
    curve = read_record(trained)["curve"]
    losses = [point["loss"] for point in curve]
    assert curve[-1]["step"] == STEPS
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    # It is written to be used anywhere.
    found, wanted = answer(trained, device), answer(trained, "cpu")
    assert wanted.std(axis=0).min() > 0.05, "a constant proves nothing"
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_killed_student_is_continued_to_the_end(
    trained: Path,
    cached: Cached,
    news: Path,
    device: str,
    tmp_path: Path,
    record_property: Callable[..., None],
) -> None:
    out = tmp_path / "student"
    options = ["--steps", STEPS, "--rows", 16, "--held-out-rows", 16, "--device", device]
    options += ["--log-every", 4, "--checkpoint-every", 5, "--out", out]
    child = start(
        "student", "--task", news, "--arch", "mini", "--cache", cached[0], *options, cwd=ROOT
    )
    try:
        wait_for(lambda: (tmp_path / ".student.checkpoint").exists() or child.poll() is not None)
    finally:
        child.kill()
    said = child.communicate()[1].decode()
    assert child.returncode == -signal.SIGKILL, said
    assert not out.exists(), "it had ended before it was killed"
    reporter = SilentReporter()
    config = make_student_config(news, cached[0], out, steps=STEPS, device=device)
    result = run_student(config, reporter)
    assert any(line.startswith("continuing at step ") for line in reporter.lines), reporter.lines
    mine, whole = read_record(out), read_record(trained)
    steps, losses = (
        [[point[key] for point in record["curve"]] for record in (mine, whole)]
        for key in ("step", "loss")
    )
    assert steps[0] == steps[1]
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)
    found, wanted = answer(out, device), answer(trained, device)
    same = float((found.argmax(1) == wanted.argmax(1)).mean())
    largest = float(np.abs(found - wanted).max())
    print(f"continued against unbroken: agreement {same:.2%}, largest difference {largest:.2g}")
    record_property("agreement", same)
    record_property("largest_difference", largest)
    assert same >= 0.95
    assert largest < 0.1
    assert abs(result.projection.agreement - whole["held_out"]["agreement"]) <= 0.1
    assert not (tmp_path / ".student.checkpoint").exists()


def test_dropout_goes_on_where_it_was(
    cached: Cached,
    news: Path,
    device: str,
    tmp_path: Path,
    record_property: Callable[..., None],
) -> None:
    arch = str(write_encoder(tmp_path / "encoder", "roberta"))
    own: dict[str, Any] = {"steps": 8, "log_every": 1, "checkpoint_every": 100, "device": device}
    own |= {"arch": arch, "init": "random", "learning_rate": 1e-3}
    found = []
    for name, stops in (("whole", None), ("broken", 4)):
        config = make_student_config(news, cached[0], tmp_path / name, **own)
        if stops is not None:
            with pytest.raises(Interrupted):
                run_student(config, StoppingReporter(stops))
        reporter = SilentReporter()
        run_student(config, reporter)
        continued = any(line.startswith("continuing at step") for line in reporter.lines)
        assert continued == (stops is not None)
        found.append([point["loss"] for point in read_record(tmp_path / name)["curve"]])
    apart = float(np.abs(np.subtract(*found)).max())
    print(f"losses of a broken and an unbroken run: at most {apart:.2g} apart")
    record_property("largest_difference", apart)
    assert apart < 1e-3


def test_an_export_gives_the_student_s_answers(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    monkeypatch.setattr(publishing, "MOST_ROUNDS", 2)  # its speed is not asked here
    student = Path(shutil.copytree(trained, tmp_path / "student"))
    reporter = SilentReporter()
    done = export_student(ExportConfig(student, ("onnx",), True, tmp_path / "out"), reporter)
    found = {each.file: each.found for each in done.files}
    assert set(found) == {"onnx/model.onnx", "onnx/model_int8.onnx"}
    print(found)
    assert any(line.startswith("checked: random ids") for line in reporter.lines)
    assert found["onnx/model.onnx"].agreement == 1
    assert found["onnx/model.onnx"].largest_difference < 1e-4
    assert found["onnx/model_int8.onnx"].agreement > 0.9
