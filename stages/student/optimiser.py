"""How fast each part of a student learns."""

import math
from typing import Any

from stages.student.config import TrainingConfig
from stages.student.model import DeepAdapter, Student
from stages.student.objectives import Objective

SMALL_WIDTH = 512
"""Encoders narrower than this learn at a higher rate from a random start."""

SMALL, LARGE, STATIC, NEW = 2e-3, 1e-4, 1e-2, 1e-3
"""Peaks of a random start below and from that width, of a student without layers, and of what is
new on a pretrained encoder."""

ENCODER_SHARES = ((SMALL_WIDTH, 0.3), (1023, 0.05), (math.inf, 0.02))
"""A pretrained encoder's learning rate by its largest width, as a share of adapter's and head's:
measured (benchmarks/pretrained.md), then what gives the usual 5e-5 and 2e-5."""


def choose_rates(asked: float | None, init: str, student: Student) -> tuple[float, float, str]:
    """Settle how fast an untrained student learns: as asked, or by its size and start.

    Returns the peak of adapter and head, the encoder's as a share of it, and both in words.
    """
    width, pretrained = student.adapter.out_features, init == "pretrained"
    share = next(s for widest, s in ENCODER_SHARES if width <= widest) if pretrained else 1.0
    rate = NEW if pretrained else SMALL if width < SMALL_WIDTH else LARGE
    reason = f"{init} start, width {width}"
    if asked is not None:
        rate, reason = asked, "as asked"
    elif isinstance(student.adapter, DeepAdapter):
        rate, reason = STATIC, "an encoder without layers"
    encoder = f", the encoder's {rate * share:g}" if share != 1 else ""
    return rate, share, f"{rate:g}{encoder} ({reason})"


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
