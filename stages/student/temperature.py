"""A student's temperature, fitted on the held-out rows and divided into its last layer.

After that the student in memory, the written one and whatever is made of its files give calibrated
probabilities without knowing of a temperature, and the same labels as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from stages.errors import TrainingError
from stages.metrics import COLDEST, HOTTEST, Calibration, Projection, ProjectionMeter, calibrate

if TYPE_CHECKING:
    from stages.reporter import Reporter
    from stages.student.loop import Rows, RowSource
    from stages.student.model import Student

TOLERANCE = 1e-5
"""Largest difference of a logit from what it must be, in parts of the largest one where above 1."""

TRIAL_ROWS = 8


def calibrate_student(
    student: Student, source: RowSource, reporter: Reporter, judge: str = "the teacher"
) -> tuple[Calibration | None, Projection]:
    """Fit a student's temperature on half of the held-out rows and divide its last layer by it.

    Args:
        student: The trained student; changed in place.
        source: Cached rows.
        reporter: Told what was found, and warned where nothing could be done.
        judge: Who gave the rows their probabilities, in words.

    Returns:
        The temperature with its figures, None where none could be fitted; and the student as it is
        now against the teacher on all held-out rows.
    """
    logits, teacher = _read_held_out(student, source)
    try:
        found = calibrate(logits.numpy(), teacher.numpy())
    except TrainingError as error:
        reporter.warn(f"no temperature, the student's probabilities stay as they are: {error}")
        return None, _project(teacher, logits)
    rows = next(iter(source.held_out()))
    if not fold_temperature(student, found.temperature, rows):
        reporter.warn(
            f"the layer that gives this encoder's logits ({student.encoder.config.model_type}) was "
            f"not found: the temperature {found.temperature:.2f} is not in the written student, "
            "whose probabilities stay as they are"
        )
        return found, _project(teacher, logits)
    reporter.say(
        f"temperature: {found.temperature:.2f} (fitted on {found.rows:,} held-out rows), expected "
        f"calibration error against {judge} {found.ece_before:.2%} -> {found.ece_after:.2%} "
        f"on {found.measured_rows:,} others"
    )
    if found.at_bound:
        reporter.warn(
            f"the temperature {found.temperature:.2f} is at the end of what is allowed "
            f"([{COLDEST:g}, {HOTTEST:g}]): the student hardly follows {judge}, or there are "
            "too few held-out rows"
        )
    return replace(found, folded=True), _project(teacher, logits.double() / found.temperature)


@torch.no_grad()
def fold_temperature(student: Student, temperature: float, rows: Rows) -> bool:
    """Divide the weights of the layer that gives the logits, and try whether that divides them.

    Args:
        student: The student; changed in place, or left as it is.
        temperature: T, positive.
        rows: Rows to try it on.

    Returns:
        Whether the student's logits are divided by T now.
    """
    training = student.training
    student.eval()
    try:
        before, layer = _find_last_layer(student, rows)
        if layer is None:
            return False
        weights = [each for each in (layer.weight, layer.bias) if each is not None]
        kept = [each.clone() for each in weights]
        for each in weights:
            each.div_(temperature)
        wanted = before / temperature
        room = TOLERANCE * max(1.0, float(wanted.abs().max()))
        if float((_answer(student, rows) - wanted).abs().max()) <= room:
            return True
        for each, old in zip(weights, kept, strict=True):
            each.copy_(old)
        return False
    finally:
        student.train(training)


def _find_last_layer(student: Student, rows: Rows) -> tuple[torch.Tensor, nn.Linear | None]:
    """Return the logits and the linear layer that gave them, or the last one as wide as they."""
    called: list[tuple[nn.Linear, torch.Tensor]] = []

    def note(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Linear):
            called.append((layer, output))

    layers = [each for each in student.encoder.modules() if isinstance(each, nn.Linear)]
    hooks = [each.register_forward_hook(note) for each in layers]
    try:
        logits = _answer(student, rows)
    finally:
        for hook in hooks:
            hook.remove()
    own = [layer for layer, output in called if output is logits]
    # Some encoders pool after their last layer, or pass its output through a dropout.
    alike = [layer for layer, _ in called if layer.out_features == logits.shape[-1]]
    fitting = own or alike
    return logits, fitting[-1] if fitting else None


def _answer(student: Student, rows: Rows) -> torch.Tensor:
    mask = None if rows.mask is None else rows.mask[:TRIAL_ROWS]
    logits: torch.Tensor = student(rows.embeddings[:TRIAL_ROWS], mask)
    return logits


@torch.no_grad()
def _read_held_out(student: Student, source: RowSource) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the student's logits and the teacher's probabilities on all held-out rows."""
    training = student.training
    student.eval()
    logits, teacher = [], []
    for rows in source.held_out():
        logits.append(student(rows.embeddings, rows.mask).float().cpu())
        teacher.append(rows.probabilities.cpu())
    student.train(training)
    return torch.cat(logits), torch.cat(teacher)


def _project(teacher: torch.Tensor, logits: torch.Tensor) -> Projection:
    meter = ProjectionMeter(teacher.shape[1])
    meter.update(teacher, logits.softmax(dim=1))
    return meter.compute()
