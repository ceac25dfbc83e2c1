"""Which inputs a cache has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from stages.errors import SettingError


@dataclass(frozen=True)
class SamplingSettings:
    """How the language model draws the tokens that it writes.

    Attributes:
        temperature: What its logits are divided by; above 0.
        top_p: Tokens are drawn from the fewest that have this share of the probability together,
            in (0, 1].
        labelled: Whether a label, another one from row to row, is named in front of the prompt.

    Raises:
        SettingError: A number is out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    labelled: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise SettingError(f"temperature: got {self.temperature:g}, must be above 0")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top-p: got {self.top_p:g}, must be in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """Which inputs the teacher answers.

    Attributes:
        sampler: Name of a sampler or a mixture, such as ``vocabulary=0.5,self=0.5``; not used with
            ``texts``.
        rows: Random inputs; not used with ``texts``.
        texts: A file of texts to answer instead of random inputs.
        text_column: Its column or key.
        lengths: How long random inputs are, ``uniform`` or ``log-uniform``; texts that the model
            writes end where it ends them.
        min_length: Shortest random input, in tokens; the longest is the task's.
        temperature: What the model's logits are divided by where it writes inputs itself.
        top_p: It writes with the fewest tokens that have this share of the probability together.
        seed: The run's seed.
        chunk_rows: Rows that share one length.
        shard_rows: Rows that are written at once.
    """

    sampler: str = "unigram"
    rows: int = 32768
    texts: Path | None = None
    text_column: str = "text"
    lengths: str = "uniform"
    min_length: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    chunk_rows: int = 64
    shard_rows: int = 4096

    def __post_init__(self) -> None:
        for name in ("rows", "min_length", "chunk_rows", "shard_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}: got {getattr(self, name)}, must be at least 1")
        if self.shard_rows % self.chunk_rows:
            raise SettingError(
                f"shard rows: got {self.shard_rows}, must be a multiple of the chunk rows, "
                f"{self.chunk_rows}"
            )
