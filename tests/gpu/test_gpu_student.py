"""A student on the device: trained, killed and continued, written, and exported."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("zarr")
pytest.importorskip("accelerate")

from tiny import make_encoder_config, make_student_config, make_teacher_config

from stages.classify.torch_classifier import load_torch_classifier
from stages.export import ExportConfig, export_student
from stages.records import read_record
from stages.reporter import SilentReporter
from stages.student import StudentConfig, loop, run_student
from stages.teacher import run_teacher

pytestmark = pytest.mark.gpu

STEPS = 24

Record = Callable[[str, object], None]
Configure = Callable[[Path], StudentConfig]


class KillingReporter(SilentReporter):
    """Kills its process behind the first checkpoint, which is of step 10."""

    def say(self, line: str) -> None:
        if line.startswith("step 12: "):
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def configure(device: str, news: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Settings of a student with dropout, of a cache filled on the device with some texts."""
    root = tmp_path_factory.mktemp("cached")
    settings = {"sampler": "self=0.1,vocabulary=0.9", "self_generated": 8, "rows": 512}
    settings |= {"batch_positions": 4096, "device": device, "dtype": "float32"}
    run_teacher(make_teacher_config(news, "mini", root, **settings), SilentReporter())
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "global_attn_every_n_layers": 1}
    shape |= {"classifier_pooling": "mean"}
    shape |= {f"{part}_dropout": 0.3 for part in ("attention", "embedding", "mlp")}
    make_encoder_config("modernbert", shape).save_pretrained(root / "encoder")
    training = {"arch": str(root / "encoder"), "init": "random", "learning_rate": 1e-3}
    training |= {"steps": STEPS, "checkpoint_every": 10, "device": device}
    return lambda out: make_student_config(news, root, out, **training)


@pytest.fixture(scope="module")
def trained(configure: Configure, device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that was trained on the device without a break."""
    reporter = SilentReporter()
    student = run_student(configure(tmp_path_factory.mktemp("trained") / "student"), reporter).out
    assert any(line.startswith(f"device: {device}") for line in reporter.lines)
    precision = next(line for line in reporter.lines if line.startswith("precision: "))
    assert ("mixed" in precision) == (device == "cuda"), precision
    return student


def answer(student: Path, device: str) -> np.ndarray:
    """What a written student says of random ids on the device."""
    classifier = load_torch_classifier(student, device)
    ids = np.random.default_rng(0).integers(8192, size=(200, 9))
    return classifier.answer(ids, np.ones_like(ids))


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


def test_a_killed_student_is_continued_with_the_dropout_of_an_unbroken_one(
    trained: Path, configure: Configure, device: str, tmp_path: Path, record_property: Record
) -> None:
    config = configure(tmp_path / "student")
    # A process that has used a GPU cannot be forked, and one that has not need not start anew.
    context = multiprocessing.get_context("spawn" if device == "cuda" else "fork")
    child = context.Process(target=run_student, args=(config, KillingReporter()))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "student").exists()
    reporter = SilentReporter()
    continued = run_student(config, reporter).out
    assert any(line.startswith("continuing at step 10 ") for line in reporter.lines), reporter.lines
    assert not (tmp_path / ".student.checkpoint").exists()
    curves = [read_record(student)["curve"] for student in (continued, trained)]
    steps, losses = ([[x[key] for x in curve] for curve in curves] for key in ("step", "loss"))
    assert steps[0] == steps[1]
    answers = [answer(student, device) for student in (continued, trained)]
    for what, (found, wanted) in {"losses": losses, "answers": answers}.items():
        apart = float(np.abs(np.subtract(found, wanted)).max())
        record_property(f"{what}: largest difference", apart)
        assert apart < 1e-2


def test_a_checkpoint_keeps_the_scale_of_float16_gradients(device: str) -> None:
    runs = []
    for scale in (2.0, 8.0):
        student, objective = torch.nn.Linear(1, 1), torch.nn.Identity()
        student.start = torch.zeros(1, device=device)
        optimizer = torch.optim.AdamW(student.parameters())
        scaler = torch.amp.GradScaler(device, init_scale=scale)
        runs.append(loop.Training(student, objective, optimizer, scaler))
    runs[1].restore(runs[0].state("of this run"))
    assert runs[1].scaler.get_scale() == 2.0


def test_an_export_gives_the_student_s_answers(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    monkeypatch.setattr("stages.export.stage.MOST_ROUNDS", 2)  # its speed is not asked here
    reporter = SilentReporter()
    (found,) = export_student(ExportConfig(trained, out=tmp_path / "out"), reporter).files
    assert found.file == "onnx/model.onnx"
    assert found.agreement == 1
    assert found.largest_difference < 1e-4
