"""What the teacher stage is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.errors import SettingError
from stages.inputs import InputsConfig

COMPILE = ("auto", "on", "off")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(InputsConfig):
    """What the teacher is asked, and where its answers go; the inputs as in the base class.

    Attributes:
        task: Name or path of a task.
        model: ``auto``, ``mini``, a hub id or a directory.
        self_generated: Texts that the model writes itself when the cache is created, for students
            to be measured on; 0: none.
        cache: Root of the caches.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or ``all`` for a model split over all GPUs.
        dtype: ``auto`` or a name of :data:`stages.devices.DTYPES`.
        batch_positions: Most positions in one forward pass, unless a single row has more; None:
            what is measured to be fastest.
        chat: Whether the prompt goes through the tokenizer's chat template.
        quantise: ``none``, ``int8`` or ``fp8`` weights.
        compile: ``auto``, ``on`` or ``off``: whether torch compiles the model's layers.
    """

    task: str
    model: str = "auto"
    self_generated: int = 1024
    cache: str | Path = "data/cache"
    device: str = "auto"
    dtype: str = "auto"
    batch_positions: int | None = None
    chat: bool = False
    quantise: str = "none"
    compile: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_positions is not None and self.batch_positions < 1:
            raise SettingError(f"batch positions: got {self.batch_positions}, must be at least 1")
        if self.self_generated < 0:
            raise SettingError(
                f"self-generated texts: got {self.self_generated}, must be at least 0"
            )
        if self.compile not in COMPILE:
            raise SettingError(f"compile: got {self.compile!r}, must be {', '.join(COMPILE)}")
