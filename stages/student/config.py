"""What the student stage is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import SettingError, Settings

TEACHER, GOLD = "teacher", "gold"
LABELS = (TEACHER, GOLD)


@dataclass(frozen=True)
class TrainingConfig:
    """How a student is trained.

    Attributes:
        objective: One of :data:`stages.student.objectives.OBJECTIVES`.
        steps: Optimiser steps.
        batch_size: Cached rows a step.
        lengths_per_batch: Parts of a step, each from another chunk and so of another input length.
        learning_rate: Peak of adapter and head, after the warm-up and before the decay to 0.
        encoder_share: The encoder's learning rate as a share of theirs.
        warm_up: Share of the steps in which the learning rate rises.
        weight_decay: AdamW's, on matrices alone.
        clip: Largest norm of the gradient.
        log_every: Steps between two rows of the curve.
        checkpoint_every: Steps between two checkpoints.
        seed: Seed of the order of the rows and of the student's start.
    """

    objective: str = "kl"
    steps: int = 500
    batch_size: int = 64
    lengths_per_batch: int = 4
    learning_rate: float = 1e-3
    encoder_share: float = 1.0
    warm_up: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    log_every: int = 100
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lengths_per_batch", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}: got {getattr(self, name)}, must be at least 1")
        if self.batch_size % self.lengths_per_batch:
            raise SettingError(
                f"batch size: got {self.batch_size}, must be a multiple of {self.lengths_per_batch}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise SettingError(f"learning rate: got {self.learning_rate}, must be positive")
        if not 0 <= self.encoder_share < math.inf:
            raise SettingError(f"encoder's share: got {self.encoder_share}, must be at least 0")
        if not 0 <= self.warm_up < 1:
            raise SettingError(f"warm-up: got {self.warm_up}, must be in [0, 1)")


@dataclass(frozen=True)
class StudentConfig:
    """Which student, trained on what, written where.

    Attributes:
        task: Name or path of the task whose cache is wanted.
        arch: A short name, a hub id or a directory.
        init: ``pretrained`` or ``random``; None: random where there are no pretrained weights.
        labels: ``teacher``: the cached answers; ``gold``: those that the texts come with.
        texts: File of labelled texts, for gold labels.
        text_column: Column of the text.
        label_column: Column of the label.
        model: The language model whose tokens and embeddings texts with gold labels are made of:
            ``auto``, ``mini``, a hub id or a directory; not used with ``source``.
        cache: Root of the caches.
        source: A fingerprint's first digits, a cache directory, or the teacher's summary file;
            None: the task's only complete cache, or ``model``'s tokens with gold labels.
        partial: Whether to train on an incomplete cache.
        learning_rate: None: by size and start.
        held_out_rows: Rows kept out of training, at most a tenth of all.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        out: The student's directory; None: ``data/students/<task>-<arch>``.
        curve: CSV file of the curve; None: inside the student's directory alone.
        training: The rest of how it is trained.

    Raises:
        SettingError: What is given does not go together.
    """

    task: str
    arch: str
    init: str | None = None
    labels: str = TEACHER
    texts: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    model: str = "auto"
    cache: str | Path = "data/cache"
    source: str | None = None
    partial: bool = False
    learning_rate: float | None = None
    held_out_rows: int = 1024
    device: str = "auto"
    out: Path | None = None
    curve: Path | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            raise SettingError(f"labels: got {self.labels!r}, must be {' or '.join(LABELS)}")
        gold = self.labels == GOLD
        if gold and self.texts is None:
            raise SettingError("labels gold: name the file of labelled texts", Settings(("texts",)))
        if gold and self.partial:
            raise SettingError(
                "labels gold: no cached rows are read, partial or not; leave partial out"
            )
        if gold and self.source is not None and self.model != "auto":
            raise SettingError(
                f"labels gold: the tokens come from the cache {self.source} or from the model "
                f"{self.model}; give one of them",
                Settings(("source", "model")),
            )
        if not gold and self.texts is not None:
            raise SettingError(
                f"{self.texts}: with the teacher's labels a cache is trained on; let the teacher "
                "answer the texts first and give its cache, or ask for the labels gold",
                Settings(("source", "labels")),
            )
        if not gold and self.model != "auto":
            raise SettingError(
                f"model: got {self.model!r}, but a cache knows its own; it is for labels gold",
                Settings(("model", "labels")),
            )
