from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ENCODER_NAMES, write_encoder
from torch import nn

from stages.records import read_record
from stages.reporter import SilentReporter
from stages.student.data import Rows, RowSource
from stages.student.model import Student, build_encoder
from stages.student.temperature import calibrate_student, fold_temperature

WIDTH = 24


def make_student(folder: Path, arch: str) -> Student:
    encoder = build_encoder(str(write_encoder(folder, arch)), "pretrained", ("a", "b", "c"), 12)
    torch.manual_seed(2)
    return Student(encoder, torch.randn(WIDTH) * 0.1, 0.1)


@torch.no_grad()
def make_source(student: Student, temperature: float, parts: int = 3) -> RowSource:
    """Rows whose teacher is the student at a temperature."""
    student.eval()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for part in range(parts):
        embeddings = torch.randn(15, 4 + part, WIDTH, generator=generator)
        logits = student(embeddings) / temperature
        rows.append(Rows(embeddings, logits.softmax(dim=1)))
    return RowSource(lambda consumed: iter(rows), lambda: rows)


class Head(nn.Module):
    """One that makes its logits of a linear layer, or of something else that has its weight."""

    def __init__(self, head: nn.Module, make: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.head, self.make = head, make

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.make(self.head, inputs)


@pytest.mark.parametrize("arch", ENCODER_NAMES)
@torch.no_grad()
def test_the_last_layer_is_found_whatever_its_name(arch: str, tmp_path: Path) -> None:
    student = make_student(tmp_path, arch).train()
    rows = Rows(torch.randn(20, 12, WIDTH), torch.full((20, 3), 1 / 3))
    before = student.eval()(rows.embeddings)
    student.train()
    assert fold_temperature(student, 1.7, rows)
    after = student.eval()(rows.embeddings)
    torch.testing.assert_close(after, before / 1.7, atol=1e-5, rtol=1e-5)
    assert torch.equal(after.argmax(dim=1), before.argmax(dim=1))


@pytest.mark.parametrize(
    ("layer", "make", "found"),
    [
        (None, lambda head, inputs: head(inputs).clone(), True),
        (None, lambda head, inputs: torch.tanh(head(inputs)), False),
        (nn.ParameterList, lambda head, inputs: inputs @ head[0].T, False),
    ],
    ids=("as they are", "bent", "without the layer"),
)
def test_where_it_is_not_found_nothing_is_changed_and_that_is_said(
    layer: Any, make: Any, found: bool, tmp_path: Path
) -> None:
    student = make_student(tmp_path, "bert")
    # Wide enough logits for tanh to bend them.
    nn.init.normal_(student.encoder.classifier.weight, std=2.0)
    nn.init.normal_(student.encoder.classifier.bias)
    head = student.encoder.classifier
    student.encoder.classifier = Head(layer([head.weight]) if layer else head, make)
    source, reporter = make_source(student, 2.0), SilentReporter()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    calibration, projection, _ = calibrate_student(student, source, reporter)
    assert calibration is not None
    assert calibration.folded is found
    assert calibration.temperature == pytest.approx(2, rel=1e-3)
    said = "".join(reporter.lines + reporter.warnings)
    assert ("not found: the temperature 2.00 is not in the written student" in said) is not found
    assert ("temperature: 2.00" in said) is found
    after = student.state_dict()
    changed = [name for name, old in before.items() if not torch.equal(after[name], old)]
    names = ("weight", "bias") if found else ()
    assert changed == [f"encoder.classifier.head.{name}" for name in names]
    # The angle is that of the student as it was left.
    assert (projection.angle < 1e-3) is found


def test_what_was_found_is_said_and_the_student_is_at_its_temperature(tmp_path: Path) -> None:
    student, reporter = make_student(tmp_path, "bert"), SilentReporter()
    nn.init.normal_(student.encoder.classifier.weight, std=2.0)
    source = make_source(student, 3.0)
    found, projection, _ = calibrate_student(student, source, reporter)
    assert found is not None
    assert (found.rows, found.measured_rows, found.folded) == (23, 22, True)
    assert found.temperature == pytest.approx(3, rel=1e-3)
    assert found.ece_before > 0.02 > 1e-4 > found.ece_after
    assert reporter.lines == [
        "temperature: 3.00 (fitted on 23 held-out rows), expected calibration error against the "
        f"teacher {found.ece_before:.2%} -> {found.ece_after:.2%} on 22 others"
    ]
    assert (projection.rows, projection.agreement) == (45, 1.0)
    assert projection.angle == pytest.approx(0, abs=1e-3)


def test_a_student_that_cannot_be_calibrated_is_left_alone_with_a_warning(tmp_path: Path) -> None:
    student, reporter = make_student(tmp_path, "bert"), SilentReporter()
    (rows,) = make_source(student, 2.0, parts=1).held_out()
    one = Rows(rows.embeddings[:1], rows.probabilities[:1])
    source = RowSource(lambda consumed: iter([one]), lambda: [one])
    found, projection, _ = calibrate_student(student, source, reporter)
    assert found is None
    assert projection.rows == 1
    assert "no temperature, the student's probabilities stay as they are" in reporter.warnings[0]


def test_a_trained_student_s_record_names_it(student: Path) -> None:
    found = read_record(student)["calibration"]
    assert (found["rows"], found["measured_rows"], found["folded"]) == (8, 8, True)
    assert 0.05 <= found["temperature"] <= 20
    assert 0 <= found["ece_after"] <= 1
