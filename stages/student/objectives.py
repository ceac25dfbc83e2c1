"""What stage two makes small: a distance between the teacher's and the student's probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from stages.errors import SettingError, TrainingError

OBJECTIVES = ("generalised-kl", "kl", "l2", "algorithm-1")
LEARNS_C = ("generalised-kl", "algorithm-1")
"""Objectives in which c is a parameter; elsewhere c is absent or has its closed form."""


class Objective(nn.Module):
    """What stage two makes small, with the coefficient c where it is learned.

    Attributes:
        name: One of :data:`OBJECTIVES`.
        c: The learned coefficient, shape (), from ½ (Algorithm 1, line 1); None where it is not
            learned.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in OBJECTIVES:
            raise SettingError(f"objective: got {name!r}, must be one of {', '.join(OBJECTIVES)}")
        self.name = name
        self.c = nn.Parameter(torch.tensor(0.5)) if name in LEARNS_C else None

    def forward(self, g: torch.Tensor, log_h: torch.Tensor) -> torch.Tensor:
        """Compute the objective, as the mean over the batch's rows.

        Args:
            g: The teacher's probabilities, shape (B, K).
            log_h: The student's log-probabilities, shape (B, K).

        Returns:
            A scalar.
        """
        total: torch.Tensor = _TERMS[self.name](g, log_h, self.c).sum()
        mean: torch.Tensor = total / len(g)
        return mean


def _kl(g: torch.Tensor, log_h: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    entropy: torch.Tensor = torch.special.xlogy(g, g)
    return entropy - g * log_h


def _generalised_kl(g: torch.Tensor, log_h: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """Σ g·log(g/(c·h)) − g + c·h, which has its minimum in c at Σg/Σh."""
    if c is None:
        raise TrainingError("generalised-kl needs c")
    return _kl(g, log_h, None) - g * c.log() - g + c * log_h.exp()


def _algorithm_1(g: torch.Tensor, log_h: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """Line 3 to the letter: Σ g·log(g/(c·h)), which falls without end as c grows."""
    if c is None:
        raise TrainingError("algorithm-1 needs c")
    return _kl(g, log_h, None) - g * c.log()


def _l2(g: torch.Tensor, log_h: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """‖g − c·h‖² at its best c; that c is stationary, so no gradient runs through it."""
    h = log_h.exp()
    best = ((g * h).sum() / (h * h).sum()).detach()
    return (g - best * h).square()


_TERMS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "generalised-kl": _generalised_kl,
    "kl": _kl,
    "l2": _l2,
    "algorithm-1": _algorithm_1,
}
