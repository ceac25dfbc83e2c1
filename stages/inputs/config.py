"""Which inputs a cache has."""

import math
from dataclasses import dataclass
from pathlib import Path

from stages.errors import SettingError


@dataclass(frozen=True)
class SamplingSettings:
    """How the language model draws the tokens that it writes.

    Raises:
        SettingError: A number is out of its range.
    """

    temperature: float = 1.0  # what its logits are divided by; above 0
    # Tokens are drawn from the fewest that have this share of the probability together, in (0, 1].
    top_p: float = 1.0
    labelled: bool = False  # names a label, another one from row to row, in front of the prompt

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise SettingError(f"temperature: got {self.temperature:g}, must be above 0")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top-p: got {self.top_p:g}, must be in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """Which inputs the teacher answers."""

    sampler: str = "unigram"  # or a mixture, such as ``vocabulary=0.5,self=0.5``
    rows: int = 32768  # random inputs
    texts: Path | None = None  # a file to answer instead of random inputs
    text_column: str = "text"  # its column or key
    # How long random inputs are, ``uniform`` or ``log-uniform``; texts that the model writes end
    # where it ends them.
    lengths: str = "uniform"
    min_length: int = 1  # shortest random input, in tokens; the longest is the task's
    temperature: float = 1.0  # as in SamplingSettings, where the model writes inputs itself
    top_p: float = 1.0
    seed: int = 0
    chunk_rows: int = 64  # rows that share one length
    shard_rows: int = 4096  # rows that are written at once

    def __post_init__(self) -> None:
        for name in ("rows", "min_length", "chunk_rows", "shard_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}: got {getattr(self, name)}, must be at least 1")
        if self.shard_rows % self.chunk_rows:
            raise SettingError(
                f"shard rows: got {self.shard_rows}, must be a multiple of the chunk rows, "
                f"{self.chunk_rows}"
            )
