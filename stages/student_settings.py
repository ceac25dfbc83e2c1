"""What the student stage is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import SettingError
from stages.training import TrainingConfig

TEACHER, GOLD = "teacher", "gold"
LABELS = (TEACHER, GOLD)


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
        model: The language model whose pieces and embeddings texts with gold labels are made of:
            ``auto``, ``mini``, a hub id or a directory; not used with ``source``.
        cache: Root of the caches.
        source: A fingerprint's first digits, a cache directory, or the teacher's summary file;
            None: the task's only complete cache, or ``model``'s pieces with gold labels.
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
        if self.labels == GOLD:
            if self.texts is None:
                raise SettingError("labels gold: name the labelled texts with --texts FILE")
            if self.partial:
                raise SettingError("labels gold: no cached rows are read; leave --partial out")
            if self.source is not None and self.model != "auto":
                raise SettingError(
                    f"labels gold: the pieces come from the cache {self.source} or from the model "
                    f"{self.model}; give --from or --model, not both"
                )
            return
        if self.texts is not None:
            raise SettingError(
                f"{self.texts}: with the teacher's labels a cache is trained on; fill one with "
                "`pipeline teacher --texts FILE` and give it by --from, or say --labels gold"
            )
        if self.model != "auto":
            raise SettingError(
                f"model: got {self.model!r}, but a cache knows its own; --model is for "
                "--labels gold"
            )
