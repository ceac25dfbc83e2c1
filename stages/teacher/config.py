"""What the teacher stage is asked for."""

from dataclasses import dataclass
from pathlib import Path

from stages.errors import SettingError
from stages.inputs import InputsConfig
from stages.tasks import Task

COMPILE = ("auto", "on", "off")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(InputsConfig):
    """What the teacher is asked, and where its answers go; the inputs as in the base class."""

    task: str | Task  # a name, a path, or it itself
    model: str = "auto"  # auto, mini, a hub id, a directory or a GGUF file
    self_generated: int = 1024  # texts that the model writes, for students to be measured on
    cache: str | Path = "data/cache"  # root of the caches
    device: str = "auto"  # auto, cpu, cuda, cuda:N, or all: split over all GPUs
    dtype: str = "auto"  # auto or one of `stages.devices.DTYPES`
    batch_positions: int | None = None  # most in one forward pass; None: measured to be fastest
    chat: bool = False  # whether the prompt goes through the chat template
    quantise: str = "none"  # weights: none, int8 or fp8
    compile: str = "auto"  # auto, on or off: the model's layers

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
