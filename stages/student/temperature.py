"""A student's temperature, fitted on the held-out rows and divided into its last layer.

After that the student in memory, the written one and whatever is made of its files give calibrated
probabilities without knowing of a temperature, and the same labels as before.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from stages import metrics
from stages.errors import TrainingError
from stages.reporter import Reporter, follow
from stages.student.data import Rows, RowSource
from stages.student.loop import answer_held_out
from stages.student.model import Student

TOLERANCE = 1e-5
"""Largest difference of a logit from what it must be, in parts of the largest one where above 1."""

TRIED_ROWS = 8
"""Rows that the folded temperature is tried on."""


def calibrate_student(
    student: Student, source: RowSource, reporter: Reporter, answered_by: str = "the teacher"
) -> tuple[metrics.Calibration | None, metrics.Projection]:
    """Fit a student's temperature on half of the held-out rows and divide its last layer by it.

    Returns the temperature, None where none could be fitted, and the student as it is now, in
    evaluation mode, against the teacher on all held-out rows.
    """
    with reporter.track("temperature", 1, 0, "student") as show:
        answered = answer_held_out(student, source, follow(show, reporter))
    logits, teacher = (each.numpy() for each in answered)
    temperature, found = 1.0, None
    try:
        found = metrics.calibrate(logits, teacher)
    except TrainingError as error:
        reporter.warn(f"no temperature, the student's probabilities stay as they are: {error}")
    if found is not None:
        rows = next(iter(source.held_out()))
        found = replace(found, folded=fold_temperature(student, found.temperature, rows))
        temperature = found.temperature if found.folded else 1.0
        if not found.folded:
            kind = student.encoder.config.model_type
            reporter.warn(
                f"the layer that gives this encoder's logits ({kind}) was not found: the "
                f"temperature {found.temperature:.2f} is not in the written student, whose "
                "probabilities stay as they are"
            )
        else:
            reporter.say(
                f"temperature: {found.temperature:.2f} (fitted on {found.rows:,} held-out rows), "
                f"expected calibration error against {answered_by} {found.ece_before:.2%} -> "
                f"{found.ece_after:.2%} on {found.measured_rows:,} others"
            )
        if found.folded and found.at_bound:
            reporter.warn(
                f"the temperature {found.temperature:.2f} is at the end of what is allowed "
                f"([{metrics.COLDEST:g}, {metrics.HOTTEST:g}]): the student hardly follows "
                f"{answered_by}, or there are too few held-out rows"
            )
    calibrated = torch.from_numpy(logits).double() / temperature
    return found, metrics.compute_projection(teacher, calibrated.softmax(dim=1).numpy())


@torch.no_grad()
def fold_temperature(student: Student, temperature: float, rows: Rows) -> bool:
    """Divide the weights of the layer that gives the logits, found by trying the last ones first.

    Returns whether the student's logits are divided by T now, which is tried on some rows; it is
    left in evaluation mode.
    """
    mask = None if rows.mask is None else rows.mask[:TRIED_ROWS]
    student.eval()
    before: torch.Tensor = student(rows.embeddings[:TRIED_ROWS], mask)
    wanted = before / temperature
    allowed = TOLERANCE * max(1.0, float(wanted.abs().max()))
    layers = [each for each in student.encoder.modules() if isinstance(each, nn.Linear)]
    for layer in reversed(layers):
        if layer.out_features != before.shape[-1]:
            continue
        weights = [each for each in (layer.weight, layer.bias) if each is not None]
        kept = [each.clone() for each in weights]
        for each in weights:
            each.div_(temperature)
        if float((student(rows.embeddings[:TRIED_ROWS], mask) - wanted).abs().max()) <= allowed:
            return True
        for each, old in zip(weights, kept, strict=True):
            each.copy_(old)
    return False
