"""Training in float16, as on a GPU without bfloat16: a loss that is scaled, and steps left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny import make_encoder_config

from stages.errors import TrainingError
from stages.reporter import SilentReporter
from stages.student.config import TrainingConfig
from stages.student.data import Rows, RowSource
from stages.student.loop import train_student
from stages.student.model import Student, build_encoder

LABELS = ("a", "b")
STEPS = 30


def train(
    folder: Path, scale: float, spoil: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows
) -> tuple[list[str], list[dict[str, float | None]]]:
    """Train on the CPU in what autocast makes float16; returns what was said, and the curve."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(50, 24) * 0.1
    make_encoder_config("bert", {}).save_pretrained(folder)
    encoder = build_encoder(str(folder), "random", LABELS, 12)
    student = Student(encoder, table[0], float(table.std()))

    def draw() -> Rows:
        ids = torch.randint(len(table), (16, 6), generator=generator)
        wanted = torch.eye(len(LABELS))[ids[:, 0] % len(LABELS)]
        return Rows(spoil(table[ids]), 0.8 * wanted + 0.1)

    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    accelerator.autocast = lambda: torch.autocast("cpu", torch.float16)
    source = RowSource(lambda done: iter(draw, None), lambda: [draw()])
    config = TrainingConfig(steps=STEPS, batch_size=32, lengths_per_batch=2, log_every=STEPS)
    reporter = SilentReporter()
    checkpoint = folder / "checkpoint"
    done = train_student(student, source, config, accelerator, checkpoint, "test", reporter)
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    return reporter.lines, done.history


def test_the_first_overflows_of_the_scaler_are_allowed_and_said(tmp_path: Path) -> None:
    plain, wanted = train(tmp_path / "a", 2.0**10)
    assert not [line for line in plain if "left out" in line]
    lines, found = train(tmp_path / "b", 2.0**28)
    (said,) = (line for line in lines if "left out" in line)
    assert said.startswith("float16: ")
    assert 0 < int(said.split()[1]) < 20
    assert found[-1]["loss"] == pytest.approx(wanted[-1]["loss"], abs=0.2)


def test_a_gradient_that_overflows_at_any_scale_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, rows: torch.Tensor) -> torch.Tensor:
            return rows.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.inf

    forward = Student.forward
    monkeypatch.setattr(Student, "forward", lambda *given: Spoilt.apply(forward(*given)))
    with pytest.raises(TrainingError, match=r"step 27: .* in float16 however small the loss"):
        train(tmp_path, 2.0**16)


def test_a_loss_that_is_not_finite_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 1: the gradient is NaN or infinite"):
        train(tmp_path, 2.0**10, lambda rows: rows * torch.nan)
