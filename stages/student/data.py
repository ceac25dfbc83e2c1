"""What a student is taught: rows, and the language model's words that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cache.lookup import find_cache
from cache.reader import CacheReader
from stages.errors import SettingError
from stages.inputs import SelfGenerated, read_self_generated, read_vocabulary
from stages.lm import Vocabulary
from stages.student.config import TEACHER, StudentConfig, TrainingConfig
from stages.student.loop import RowSource
from stages.student.rows import open_rows

if TYPE_CHECKING:
    from stages.reporter import Reporter


@dataclass(frozen=True)
class TrainingData:
    """What a student is trained on.

    Attributes:
        identity: What the rows depend on.
        facts: What the student's record says of them.
        fingerprint: The cache's whose answers are learned; empty where there is none.
        judge: Who gave the labels, in words.
        load_vocabulary: Brings the language model's words.
        open_rows: Takes these words, how the student is trained, how many rows to hold out, and
            the device to train on.
        read_own: Brings the texts that the teacher wrote itself, None where there are none.
    """

    identity: tuple[object, ...]
    facts: Mapping[str, Any]
    fingerprint: str
    judge: str
    load_vocabulary: Callable[[], Vocabulary]
    open_rows: Callable[[Vocabulary, TrainingConfig, int, torch.device], RowSource]
    read_own: Callable[[], SelfGenerated | None] = lambda: None


def open_training_data(config: StudentConfig, task: str, reporter: Reporter) -> TrainingData:
    """Open a cache as what a student is taught.

    Raises:
        CacheChoiceError: No cache fits, or several do.
        CacheError: The cache is incomplete or damaged.
        SettingError: It is of another task.
    """
    cache = find_cache(config.cache, task, config.source, config.partial)
    if (own := cache.manifest.inputs["task"]["name"]) != task:
        raise SettingError(
            f"the cache {cache.place} is of the task {own}, the student is to be of {task}; give "
            f"--task {own}, or another cache by --from"
        )
    reporter.say(f"cache: {cache.place} ({cache.manifest.label})")
    reader = CacheReader(cache, partial=config.partial)
    if reader.rows < cache.layout.rows:
        reporter.warn(f"training on {reader.rows:,} of {cache.layout.rows:,} rows (--partial)")
    return TrainingData(
        (cache.fingerprint, reader.shards),
        {
            "labels": TEACHER,
            "texts": "",
            "cache": cache.manifest.label,
            "sampler": cache.manifest.inputs["sampler"]["name"],
            "teacher": cache.manifest.notes.get("model", ""),
            "rows": reader.rows,
            "shards": reader.shards,
            "partial": reader.rows < cache.layout.rows,
            "preparation": {"seconds": sum_seconds(reader), "rows": reader.rows},
        },
        cache.fingerprint,
        "the teacher",
        lambda: read_vocabulary(cache),
        lambda words, training, held_out_rows, device: open_rows(
            reader, words.table.to(device), training, held_out_rows, device
        ),
        lambda: read_self_generated(cache),
    )


def sum_seconds(reader: CacheReader) -> float:
    """Return how long the rows that are read took to compute, in seconds, over all who did."""
    own = reader.cache.manifest.notes.get("seconds", 0.0)
    return float(own) + sum(reader.cache.record(shard).seconds for shard in reader.shards)
