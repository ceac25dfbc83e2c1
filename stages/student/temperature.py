"""A student's temperature, fitted on the held-out rows and divided into its last layer.

After that the student in memory, the written one and whatever is made of its files give calibrated
probabilities without knowing of a temperature, and the same labels as before.
"""

from dataclasses import replace

import torch
from torch import nn

from stages import metrics
from stages.errors import TrainingError
from stages.reporter import Reporter
from stages.student.data import Rows, RowSource
from stages.student.loop import answer_held_out
from stages.student.model import Student

TOLERANCE = 1e-5
"""Largest difference of a logit from what it must be, in parts of the largest one where above 1."""


def calibrate_student(
    student: Student,
    source: RowSource,
    reporter: Reporter,
    answered_by: str = "the teacher",
    prior: metrics.Prior | None = None,
) -> tuple[metrics.Calibration | None, metrics.Projection, metrics.Projection | None]:
    """Fit a student's temperature on half of the held-out rows and divide its last layer by it.

    Returns the temperature, None where none could be fitted; the student as it is now, in
    evaluation mode, against the teacher on all held-out rows; and, where a prior was taken off the
    teacher's answers, both with it put back.
    """
    with reporter.track("temperature", 1, 0, "student") as advance:
        answered = answer_held_out(student, source, advance)
    logits, teacher = (each.numpy() for each in answered)
    temperature, found = 1.0, None
    try:
        found = metrics.calibrate(logits, teacher)
    except TrainingError as error:
        reporter.warn(f"no temperature, the student's probabilities stay as they are: {error}")
    if found is not None and not fold_temperature(
        student, found.temperature, next(iter(source.held_out()))
    ):
        kind = student.encoder.config.model_type
        reporter.warn(
            f"the layer that gives this encoder's logits ({kind}) was not found: the "
            f"temperature {found.temperature:.2f} is not in the written student, whose "
            "probabilities stay as they are"
        )
    elif found is not None:
        found, temperature = replace(found, folded=True), found.temperature
        reporter.say(
            f"temperature: {temperature:.2f} (fitted on {found.rows:,} held-out rows), "
            f"expected calibration error against {answered_by} {found.ece_before:.2%} -> "
            f"{found.ece_after:.2%} on {found.measured_rows:,} others"
        )
        if found.at_bound:
            reporter.warn(
                f"the temperature {temperature:.2f} is at the end of what is allowed "
                f"([{metrics.COLDEST:g}, {metrics.HOTTEST:g}]): the student hardly follows "
                f"{answered_by}, or there are too few held-out rows"
            )
    h = (torch.from_numpy(logits).double() / temperature).softmax(dim=1).numpy()
    # A student that learned the leaning alone agrees there, so this stands behind the other.
    included = None
    if prior is not None:
        included = metrics.compute_projection(prior.put_back(teacher), prior.put_back(h))
    return found, metrics.compute_projection(teacher, h), included


@torch.no_grad()
def fold_temperature(student: Student, temperature: float, rows: Rows) -> bool:
    """Divide the weights of the layer that gives the logits, found by trying the last ones first.

    Returns whether the student's logits are divided by T now, which is tried on the rows; it is
    left in evaluation mode.
    """
    student.eval()
    before: torch.Tensor = student(rows.embeddings, rows.mask)
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
        if float((student(rows.embeddings, rows.mask) - wanted).abs().max()) <= allowed:
            return True
        for each, old in zip(weights, kept, strict=True):
            each.copy_(old)
    return False
