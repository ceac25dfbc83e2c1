"""What the teacher stage is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.errors import SettingError

COMPILE = ("auto", "on", "off")


@dataclass(frozen=True)
class TeacherConfig:
    """What the teacher is asked, and where its answers go.

    Attributes:
        task: Name or path of a task.
        model: ``auto``, ``mini``, a hub id or a directory.
        sampler: Name of a sampler or a mixture, such as ``vocabulary=0.5,self=0.5``; not used with
            ``texts``.
        rows: Random inputs; not used with ``texts``.
        texts: A file of texts to answer instead of random inputs.
        text_column: Its column or key.
        lengths: How long random inputs are, ``uniform`` or ``log-uniform``; texts that the model
            writes end where it ends them.
        min_length: Shortest random input, in pieces; the longest is the task's.
        temperature: What the model's logits are divided by where it writes inputs itself.
        top_p: It writes with the fewest pieces that have this share of the probability together.
        own_texts: Texts that the model writes itself when the cache is created, for students to be
            measured on; 0: none.
        seed: The run's seed.
        cache: Root of the caches.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or ``all`` for a model split over all GPUs.
        dtype: ``auto`` or a name of :data:`stages.language_model.DTYPES`.
        chunk_rows: Rows that share one length.
        shard_rows: Rows that are written at once.
        batch_positions: Most positions in one forward pass, unless a single row has more; None:
            what a short trial finds to be fastest.
        chat: Whether the prompt goes through the tokenizer's chat template.
        quantise: ``none``, ``int8`` or ``fp8`` weights.
        compile: ``auto``, ``on`` or ``off``: whether torch compiles the model's layers.
    """

    task: str
    model: str = "auto"
    sampler: str = "unigram"
    rows: int = 32768
    texts: Path | None = None
    text_column: str = "text"
    lengths: str = "uniform"
    min_length: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    own_texts: int = 1024
    seed: int = 0
    cache: str | Path = "data/cache"
    device: str = "auto"
    dtype: str = "auto"
    chunk_rows: int = 64
    shard_rows: int = 4096
    batch_positions: int | None = None
    chat: bool = False
    quantise: str = "none"
    compile: str = "auto"

    def __post_init__(self) -> None:
        for name in ("rows", "min_length", "chunk_rows", "shard_rows", "batch_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name}: got {value}, must be at least 1")
        if self.own_texts < 0:
            raise SettingError(f"own texts: got {self.own_texts}, must be at least 0")
        if self.shard_rows % self.chunk_rows:
            raise SettingError(
                f"shard rows: got {self.shard_rows}, must be a multiple of the chunk rows, "
                f"{self.chunk_rows}"
            )
        if self.compile not in COMPILE:
            raise SettingError(f"compile: got {self.compile!r}, must be {', '.join(COMPILE)}")
