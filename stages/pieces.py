"""A language model's pieces and their embeddings, as they are kept for students."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stages.language_model import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 4096
"""Token ids that are looked up at once."""


@torch.inference_mode()
def embed_vocabulary(model: PreTrainedModel) -> torch.Tensor:
    """Return the embedding of every token id, shape (V, d_T), in the model's number format.

    Through the module, not its weight: some families scale inside it.
    """
    embed = model.get_input_embeddings()
    vocabulary = torch.arange(embed.weight.shape[0], device=embed.weight.device)
    return torch.cat([embed(part) for part in torch.split(vocabulary, ROWS)]).clone()


def pack_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return a tokenizer's files by name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.name: path.read_bytes()
            for path in sorted(Path(folder).iterdir())
            if path.is_file()
        }


def unpack_tokenizer(files: Mapping[str, bytes]) -> PreTrainedTokenizerBase:
    """Load a tokenizer from :func:`pack_tokenizer`'s files.

    Raises:
        ModelError: It is not readable.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return load_tokenizer(Path(folder))
