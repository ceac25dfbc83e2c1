"""What a cache keeps beside its rows: the vocabulary, what `unigram` draws by, and written texts.

Every read and every write of an attachment is here.  A student needs nothing else of the language
model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.directory import Cache
from stages.errors import ModelError
from stages.inputs.self_generated import SelfGenerated
from stages.lm import Vocabulary, pack_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TABLE = "embedding.safetensors"
THRESHOLDS = "thresholds.npy"
TOKENIZER = "tokenizer-"
"""What the names of a cache's attachments begin with that are files of the tokenizer."""
ATTACHMENT = "own-texts.safetensors"
SELF_GENERATED = "own_texts"
"""Under which a manifest notes how many texts the model wrote for students to be measured on."""


def pack_attachments(
    table: torch.Tensor, tokenizer: PreTrainedTokenizerBase, thresholds: np.ndarray | None
) -> dict[str, bytes]:
    """Collect what a student needs of the language model.

    Args:
        table: The embedding table, shape (V, d_T).
        tokenizer: The tokenizer.
        thresholds: What `unigram` draws by, shape (V,); None where it draws nothing.

    Returns:
        The attachments' contents by name.
    """
    from safetensors.torch import save

    files = {TABLE: save({"embedding": table.cpu().contiguous()})}
    files |= {f"{TOKENIZER}{name}": data for name, data in pack_tokenizer(tokenizer).items()}
    if thresholds is not None:
        files[THRESHOLDS] = thresholds.astype("<i8").tobytes()
    return files


def read_table(cache: Cache) -> torch.Tensor:
    """Read the language model's embedding table, shape (V, d_T), from a cache."""
    from safetensors.torch import load

    table: torch.Tensor = load(cache.read_attachment(TABLE))["embedding"]
    return table


def read_vocabulary(cache: Cache) -> Vocabulary:
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
    return Vocabulary(read_table(cache), files, inputs["start_id"], inputs["task"])


def read_thresholds(cache: Cache) -> np.ndarray | None:
    """Read what `unigram` draws by, shape (V,), int64; None where it draws nothing."""
    if THRESHOLDS not in cache.manifest.attachments:
        return None
    return np.frombuffer(cache.read_attachment(THRESHOLDS), dtype="<i8")


def read_self_generated(cache: Cache) -> SelfGenerated | None:
    """Read the texts of a cache; None where it has none.

    Raises:
        DamageError: They were changed since they were written.
        ModelError: The attachment holds other arrays than texts have.
    """
    from safetensors.numpy import load

    if ATTACHMENT not in cache.manifest.attachments:
        return None
    try:
        found = SelfGenerated(**load(cache.read_attachment(ATTACHMENT)))
    except TypeError as error:
        raise ModelError(f"{cache.place}: {ATTACHMENT} holds other things than texts") from error
    return found


def describe_difference(cache: Cache, asked: int) -> str | None:
    """Say that a cache was created with another number of texts than is asked for now.

    Args:
        cache: The cache; its texts are as they were made, whatever is asked for later.
        asked: Texts that are asked for.

    Returns:
        A line, or None where the number is the same or not known.
    """
    kept = cache.manifest.notes.get(
        SELF_GENERATED, None if ATTACHMENT in cache.manifest.attachments else 0
    )
    if kept is None or kept == asked:
        return None
    return (
        f"self-generated texts: {kept or 'none'}, as this cache was created with, instead of {asked:,}; only "
        "a new cache gets others"
    )
