"""Texts to class probabilities, in numpy alone, whatever computes the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_TOKENS = 100_000  # most tokens that are read where a tokenizer states no limit


@dataclass(frozen=True)
class Answers:
    """What a classifier says of some texts."""

    probabilities: np.ndarray  # shape (N, K), float32
    cut: np.ndarray  # whether each text was longer than the classifier reads, shape (N,), bool


@dataclass(frozen=True)
class Classifier:
    """A sequence-classification model and its tokenizer."""

    # Texts and a limit to each text's ids, start token included, cut at the limit.
    encode: Callable[[list[str], int], Sequence[Sequence[int]]]
    # Ids and mask, both (B, T) int64, to logits, (B, K) float32.
    run: Callable[[np.ndarray, np.ndarray], np.ndarray]
    labels: tuple[str, ...]  # the classes' names in column order
    max_length: int  # longest input in tokens, the start token included
    pad_id: int  # pads shorter inputs
    device: str  # what computes, and why that does, for the log
    batch_rows: int = 64  # texts per forward pass

    def classify(self, texts: Sequence[str]) -> Answers:
        """Classify texts in their order; those of similar length share a batch.

        A text may be empty; one longer than ``max_length`` is cut.
        """
        if not texts:
            return Answers(np.empty((0, len(self.labels)), np.float32), np.empty(0, bool))
        # One token more than is read, to know which texts were cut.
        limit = self.max_length + 1
        ids = [tokens[:limit] for tokens in self.encode(list(texts), limit)]
        cut = np.array([len(tokens) > self.max_length for tokens in ids], dtype=bool)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        probabilities = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        for begin in range(0, len(order), self.batch_rows):
            rows = order[begin : begin + self.batch_rows]
            batch = [ids[row][: self.max_length] for row in rows]
            # Another tokenizer than a student's may give an empty text no token at all.
            inputs = np.full((len(rows), max(1, *map(len, batch))), self.pad_id, dtype=np.int64)
            mask = np.zeros_like(inputs)
            for index, tokens in enumerate(batch):
                inputs[index, : len(tokens)] = tokens
                mask[index, : len(tokens)] = 1
            probabilities[rows] = self.answer(inputs, mask)
        return Answers(probabilities, cut)

    def answer(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return class probabilities, shape (B, K), float32, of token ids, shape (B, T), int64.

        Each row is the start token and the input.  The mask is 1 there and 0 at padding, shape
        (B, T), int64; None: no padding.
        """
        logits = self.run(ids, np.ones_like(ids) if mask is None else mask)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities


def is_onnx(model: Path) -> bool:
    """Whether a path is meant as an ONNX file rather than a model's directory."""
    return model.suffix.lower() == ".onnx"


def model_directory(model: Path) -> Path:
    """Return the directory with a model's configuration, tokenizer and record.

    Of an ONNX file it is the folder or the one above, as in the layout ``onnx/model.onnx`` of model
    hubs; a model's directory is returned as it is.
    """
    if not is_onnx(model):
        return model
    folder = model.absolute().parent
    return folder if (folder / "config.json").is_file() else folder.parent
