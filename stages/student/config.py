"""What the student stage is asked for."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import SettingError, Settings
from stages.tasks import NONE, Task

TEACHER, GOLD = "teacher", "gold"
LABELS = (TEACHER, GOLD)

TRAINER = 2
"""Version of the training code, raised whenever the same settings would give another student."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a student is trained."""

    objective: str = "kl"  # one of `stages.student.objectives.OBJECTIVES`
    steps: int = 500
    batch_size: int = 64  # cached rows a step
    # parts of a step, each of another chunk and so of another input length
    lengths_per_batch: int = 4
    learning_rate: float = 1e-3  # peak of adapter and head, between warm-up and decay to 0
    encoder_share: float = 1.0  # the encoder's learning rate as a share of theirs
    warm_up: float = 0.05  # share of the steps in which the learning rate rises
    weight_decay: float = 0.01  # AdamW's, on matrices alone
    clip: float = 1.0  # largest norm of the gradient
    log_every: int = 100  # steps between two rows of the curve
    checkpoint_every: int = 250  # steps
    seed: int = 0  # of the order of the rows and of the student's start

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
    """Which student, trained on what, written where; SettingError if that does not fit together."""

    task: str | Task  # name or path
    arch: str  # a short name, a hub id or a directory
    # pretrained or random; None: random where there are no pretrained weights
    init: str | None = None
    labels: str = TEACHER  # the cached answers, or gold: those that the texts come with
    texts: Path | None = None  # file of labelled texts, for gold labels
    text_column: str = "text"
    label_column: str = "label"
    label_map: str = ""  # which labels those of the texts stand for, such as `1=good,0=bad`
    # auto, mini, a hub id, a directory or a GGUF file; whose tokens texts are, without `source`
    model: str = "auto"
    cache: str | Path = "data/cache"  # root of the caches
    # digits, cache or summary file, several of the same rows under other prompts; none: the only
    # complete cache (of each of the task's prompts), or `model`
    source: tuple[str, ...] = ()
    partial: bool = False  # whether to train on an incomplete cache
    # what is taken off the teacher's answers: auto, balanced, none, or shares, `label=share,…`;
    # None: as the task says, or auto
    prior: str | None = None
    learning_rate: float | None = None  # None: by size and start
    held_out_rows: int = 1024  # at most a tenth of all
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    out: Path | None = None  # None: data/students/<task>-<arch>
    curve: Path | None = None  # CSV file of the curve as well
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
        if gold and len(self.source) > 1:
            raise SettingError(
                f"labels gold: got {len(self.source)} caches, the tokens come from one; give one",
                Settings(("source",)),
            )
        if gold and self.source and self.model != "auto":
            raise SettingError(
                f"labels gold: the tokens come from the cache {self.source[0]} or from the model "
                f"{self.model}; give one of them",
                Settings(("source", "model")),
            )
        if gold and self.prior not in (None, NONE):
            raise SettingError(
                f"prior: got {self.prior!r}, but labels gold are no teacher's answers and have "
                "none; leave it out"
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
        if not gold and self.label_map:
            raise SettingError(
                "label map: no labels are read; it is for labels gold", Settings(("labels",))
            )
