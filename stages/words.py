"""What a student needs of its language model, from a cache that kept it or from the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.directory import Cache
from stages import language_model as lm
from stages.inputs import read_table
from stages.pieces import embed_vocabulary, pack_tokenizer
from stages.task import Task

TOKENIZER = "tokenizer-"
"""What the names of a cache's attachments begin with that are files of the tokenizer."""


@dataclass(frozen=True)
class Words:
    """What a student needs of the language model.

    Attributes:
        table: Its embedding table, shape (V, d_T), on the CPU.
        files: Its tokenizer's files by name.
        start_id: Id that every input begins with.
        task: The task as a cache describes it.
    """

    table: torch.Tensor
    files: Mapping[str, bytes]
    start_id: int
    task: Mapping[str, Any]


def read_words(cache: Cache) -> Words:
    """Read what a cache keeps of its language model.

    Raises:
        DamageError: A file of it is missing or changed.
    """
    inputs = cache.manifest.inputs
    files = {
        name.removeprefix(TOKENIZER): cache.read_attachment(name)
        for name in cache.manifest.attachments
        if name.startswith(TOKENIZER)
    }
    return Words(read_table(cache), files, inputs["start_id"], inputs["task"])


def load_words(folder: Path, device: str, dtype: str, task: Task) -> Words:
    """Take a language model's words from the model, which is not kept.

    Args:
        folder: Where it lies.
        device: Where it is loaded, since a family may compute in its embedding layer.
        dtype: The number format it is loaded in.
        task: What the student is for.

    Raises:
        ModelError: It cannot be loaded, or does not fit.
    """
    tokenizer = lm.load_tokenizer(folder)
    # A copy: what was made in inference mode cannot be written to, and a student's start is of it.
    table = embed_vocabulary(lm.load_language_model(folder, device, dtype)).cpu().clone()
    described = {
        "name": task.name,
        "prompt": task.prompt,
        "suffix": task.suffix,
        "max_length": task.max_length,
        # Without the words' ids, since the model is not asked for its answers.
        "labels": [
            {"name": label.name, "words": [[word, None] for word in label.words]}
            for label in task.labels
        ],
    }
    return Words(table, pack_tokenizer(tokenizer), lm.find_start_id(tokenizer), described)
