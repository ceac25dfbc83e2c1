"""Texts as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stages.texts.reading import TextRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.reporter import Reporter


@dataclass(frozen=True)
class EncodedTexts:
    """Every text of a file."""

    lines: np.ndarray  # of the file that each text begins at, shape (N,), int64
    labels: tuple[str | None, ...]
    lengths: np.ndarray  # tokens of each text, shape (N,), int32
    tokens: np.ndarray  # padded with -1, shape (N, longest), int32


def encode_texts(
    rows: Sequence[TextRow],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    reporter: Reporter,
) -> EncodedTexts:
    """Turn at least one text into tokens; those longer than ``max_length`` keep their first."""
    ids: list[list[int]] = []
    cut = 0
    for begin in range(0, len(rows), 1024):
        reporter.check_stop()
        texts = [row.text for row in rows[begin : begin + 1024]]
        # Nobody's text ends the input or begins another's: what looks like a control token is text.
        settings = {"add_special_tokens": False, "split_special_tokens": True}
        found = tokenizer(texts, **settings)["input_ids"]
        cut += sum(len(tokens) > max_length for tokens in found)
        ids += [tokens[:max_length] for tokens in found]
    if cut:
        reporter.say(f"{cut:,} of {len(ids):,} texts are cut at {max_length} tokens")
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int32)
    padded = np.full((len(ids), max(1, int(lengths.max()))), -1, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(ids)
    return EncodedTexts(
        np.array([row.line for row in rows]), tuple(row.label for row in rows), lengths, padded
    )
