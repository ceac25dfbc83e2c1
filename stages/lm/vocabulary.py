"""A language model's vocabulary: its tokenizer's files and the embedding of every token."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.errors import ModelError
from stages.lm.gguf_file import load_gguf_tokenizer
from stages.lm.model import load_language_model
from stages.lm.resolve import read_config
from stages.loading import load_tokenizer
from stages.reporter import Reporter
from stages.tokens import make_input_tokenizer, restrict_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 4096
"""Token ids that are looked up at once."""


@dataclass(frozen=True)
class Vocabulary:
    """What a student needs of the language model."""

    table: torch.Tensor  # embeddings, shape (V, d_T), on the CPU
    files: Mapping[str, bytes]  # the tokenizer's, by name
    start_id: int  # begins every input
    task: Mapping[str, Any]  # as a cache describes it


def load_vocabulary(
    folder: Path,
    device: str,
    dtype: str,
    task: Mapping[str, Any],
    reporter: Reporter | None = None,
) -> Vocabulary:
    """Read a language model's vocabulary, or raise ModelError; the model itself is not kept.

    It is loaded on a device since a family may compute in its embedding layer.
    """
    tokenizer = load_language_tokenizer(folder)
    # A copy: what was made in inference mode cannot be written to, and a student's start is of it.
    model = load_language_model(folder, device, dtype, reporter=reporter)
    table = embed_vocabulary(model).cpu().clone()
    files = pack_tokenizer(make_input_tokenizer(tokenizer))
    return Vocabulary(table, files, find_start_id(tokenizer), task)


def load_language_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer without the tokens that a model has no embedding of, or raise ModelError."""
    if folder.is_file():
        tokenizer = load_gguf_tokenizer(folder)
    else:
        tokenizer = load_tokenizer(folder)
        if not (folder / "config.json").is_file():  # a tokenizer alone
            return tokenizer
    rows = getattr(read_config(folder).get_text_config(), "vocab_size", None)
    return tokenizer if rows is None else restrict_tokenizer(tokenizer, rows)


@torch.inference_mode()
def embed_vocabulary(model: PreTrainedModel) -> torch.Tensor:
    """Return the embedding of every token id, shape (V, d_T), in the model's number format.

    Through the module, not its weight: some families scale inside it.
    """
    embed = model.get_input_embeddings()
    vocabulary = torch.arange(embed.weight.shape[0], device=embed.weight.device)
    return torch.cat([embed(part) for part in torch.split(vocabulary, ROWS)]).clone()


def find_start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that begins a student's input: BOS, or EOS; ModelError if there is neither."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError("the tokenizer has neither a BOS nor an EOS token to begin an input with")


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
    """Load a tokenizer from :func:`pack_tokenizer`'s files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return load_tokenizer(Path(folder))
