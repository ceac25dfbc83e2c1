"""What stage two minimises: a distance between the teacher's and the student's probabilities."""

from collections.abc import Callable

import torch
from torch import nn

from stages.errors import SettingError


def kl(g: torch.Tensor, log_h: torch.Tensor) -> torch.Tensor:
    """Σ g·log(g/h), term by term."""
    entropy: torch.Tensor = torch.special.xlogy(g, g)
    return entropy - g * log_h


def generalised_kl(g: torch.Tensor, log_h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Σ g·log(g/(c·h)) − g + c·h, which has its minimum in c at Σg/Σh."""
    return kl(g, log_h) - g * c.log() - g + c * log_h.exp()


def algorithm_1(g: torch.Tensor, log_h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Line 3 to the letter: Σ g·log(g/(c·h)), which falls without end as c grows."""
    return kl(g, log_h) - g * c.log()


def l2(g: torch.Tensor, log_h: torch.Tensor) -> torch.Tensor:
    """‖g − c·h‖² at its best c; that c is stationary, so no gradient runs through it."""
    h = log_h.exp()
    best = ((g * h).sum() / (h * h).sum()).detach()
    return (g - best * h).square()


OBJECTIVES: dict[str, tuple[Callable[..., torch.Tensor], bool]] = {
    "generalised-kl": (generalised_kl, True),
    "kl": (kl, False),
    "l2": (l2, False),
    "algorithm-1": (algorithm_1, True),
}
"""An objective's terms, shape (B, K), and whether c is learned and so their last argument."""


class Objective(nn.Module):
    """What stage two minimises; c, where it is learned, begins at ½ (Algorithm 1, line 1)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in OBJECTIVES:
            raise SettingError(f"objective: got {name!r}, must be one of {', '.join(OBJECTIVES)}")
        self._terms, learns_c = OBJECTIVES[name]
        self.c = nn.Parameter(torch.tensor(0.5)) if learns_c else None

    def forward(self, g: torch.Tensor, log_h: torch.Tensor) -> torch.Tensor:
        """Return the mean over rows, for the teacher's g and the student's log h, shape (B, K)."""
        learned = () if self.c is None else (self.c,)
        return self._terms(g, log_h, *learned).sum() / len(g)
