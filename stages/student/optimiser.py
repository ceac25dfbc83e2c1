"""How fast each part of a student learns."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from stages.student.config import TrainingConfig
from stages.student.model import DeepAdapter, Student
from stages.student.objectives import Objective

SMALL_WIDTH = 512
"""Encoders narrower than this learn at a higher rate from a random start."""

SMALL, LARGE, STATIC, NEW = 2e-3, 1e-4, 1e-2, 1e-3
"""Peaks of a random start below and from that width, of a student without layers, and of what is
new on a pretrained encoder."""

ENCODER_SHARES = ((SMALL_WIDTH, 0.3), (1023, 0.05), (math.inf, 0.02))
"""A pretrained encoder's learning rate by its largest width, as a share of adapter's and head's.

The first is measured (benchmarks/pretrained.md); the others give what encoders of these sizes are
commonly fine-tuned with, 5e-5 and 2e-5.
"""


class Rates(NamedTuple):
    """Peaks of the learning rate: that of adapter and head, and the encoder's as a share of it."""

    rate: float
    encoder_share: float
    reason: str

    def __str__(self) -> str:
        """Say them, and why they are what they are."""
        encoder = f", the encoder's {self.rate * self.encoder_share:g}"
        return f"{self.rate:g}{encoder if self.encoder_share != 1 else ''} ({self.reason})"


def choose_rates(asked: float | None, init: str, student: Student) -> Rates:
    """Settle how fast an untrained student learns: as asked, or by its size and start."""
    width = student.adapter.out_features
    pretrained = init == "pretrained"
    share = next(s for widest, s in ENCODER_SHARES if width <= widest) if pretrained else 1.0
    if asked is not None:
        return Rates(asked, share, "as asked")
    if isinstance(student.adapter, DeepAdapter):
        return Rates(STATIC, share, "an encoder without layers")
    rate = NEW if pretrained else SMALL if width < SMALL_WIDTH else LARGE
    return Rates(rate, share, f"{init} start, width {width}")


def group_parameters(
    student: Student, objective: Objective, config: TrainingConfig
) -> list[dict[str, Any]]:
    """Return what an optimiser takes: parameters, their weight decay and their peak rate."""
    groups = []
    for body in (False, True):
        peak = config.learning_rate * (config.encoder_share if body else 1.0)
        trained = [p for p in student.select_parameters(body) if p.requires_grad]
        # c takes adapter's and head's learning rate (Algorithm 1, line 5) and no weight decay.
        flat = [p for p in trained if p.ndim <= 1] + ([] if body else list(objective.parameters()))
        matrices = [p for p in trained if p.ndim > 1]
        groups += [
            {"params": matrices, "weight_decay": config.weight_decay, "peak": peak},
            {"params": flat, "weight_decay": 0.0, "peak": peak},
        ]
    return groups


def scale_rate(step: int, config: TrainingConfig) -> float:
    """Return the share of the peak at a step: up linearly, then down linearly to 0."""
    warm = max(1, round(config.warm_up * config.steps))
    return min((step + 1) / warm, (config.steps - step) / max(1, config.steps - warm))
