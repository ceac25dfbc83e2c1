"""What `pipeline evaluate` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.evaluate import Evaluation
    from stages.metrics import CalibrationErrors, Confidence, Scores

ECE = "expected calibration error"


def format_evaluation(found: Evaluation) -> Iterator[str]:
    """Yield an evaluation's lines.

    Args:
        found: What was measured.
    """
    held_out = found.held_out
    if held_out is not None:
        yield (
            f"{found.rows:,} held-out rows: agreement {held_out.agreement_share}, "
            f"α {held_out.angle:.3f} rad, centred α {held_out.centred_angle:.3f} rad"
        )
        if found.self_generated is not None:
            yield (
                f"{found.self_generated.rows:,} texts that the teacher wrote itself: agreement "
                f"{found.self_generated}, the estimate for real texts"
            )
    else:
        yield f"{found.rows:,} texts of {found.data}"
        if found.student is not None:
            yield from _format_scores("student", found.student)
        if found.teacher is not None:
            yield from _format_scores("teacher", found.teacher)
        if found.agreement is not None:
            low, high = found.agreement_interval or (found.agreement, found.agreement)
            yield (
                f"agreement of student and teacher: {found.agreement:.2%} "
                f"({100 * low:.1f}-{100 * high:.1f})"
            )
    if found.calibration is not None:
        yield from _format_calibration(found.calibration)
    selection = found.selection
    if selection is not None:
        right = "" if selection.accuracy is None else f", accuracy {selection.accuracy:.2%}"
        yield (
            f"threshold {selection.threshold:g}: {selection.coverage:.2%} of the texts get a tag"
            f"{right}"
        )


def _format_scores(name: str, scores: Scores) -> Iterator[str]:
    yield (
        f"{name}: accuracy {scores.accuracy:.2%}, macro-F1 {scores.macro_f1:.2%}, "
        f"{scores.texts_per_second:,.0f} texts a second"
    )
    yield f"  {'class':<20} {'precision':>9} {'recall':>9} {'F1':>9} {'rows':>9}"
    for label, row in scores.classes.items():
        yield (
            f"  {label:<20} {row['precision']:>9.2%} {row['recall']:>9.2%} "
            f"{row['f1']:>9.2%} {row['rows']:>9,}"
        )


def _format_calibration(found: Confidence) -> Iterator[str]:
    if found.against_labels is not None:
        yield _format_errors("labels", found.against_labels, found.temperature)
    if found.against_teacher is not None:
        yield _format_errors("teacher", found.against_teacher, found.temperature)
    if found.teacher_ece is not None:
        yield f"{ECE} of the teacher against the labels: {found.teacher_ece:.2%}"


def _format_errors(whom: str, errors: CalibrationErrors, temperature: float | None) -> str:
    if errors.ece_before is None or temperature is None:
        figures = f"{errors.ece_after:.2%} (as it is: its record names no temperature in it)"
    else:
        figures = (
            f"{errors.ece_before:.2%} without its temperature of {temperature:.2f}, "
            f"{errors.ece_after:.2%} with it"
        )
    return f"{ECE} of the student against the {whom}, {errors.rows:,} rows: {figures}"
