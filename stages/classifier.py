"""A written student, loaded to be used: texts to class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stages.errors import ModelError
from stages.language_model import load_tokenizer
from stages.loading import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answers:
    """What a classifier says of some texts.

    Attributes:
        probabilities: Shape (N, K), float32.
        cut: Whether each text was longer than the classifier reads, shape (N,), bool.
    """

    probabilities: np.ndarray
    cut: np.ndarray


@dataclass(frozen=True)
class Classifier:
    """A sequence-classification model and its tokenizer.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        labels: The classes' names in column order.
        max_length: Longest input in pieces, the start token included.
        batch_rows: Texts a forward pass.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    max_length: int
    batch_rows: int = 64

    @torch.inference_mode()
    def classify(self, texts: Sequence[str]) -> Answers:
        """Classify texts; those of like length share a batch.

        Args:
            texts: Any texts, empty ones included; longer ones than ``max_length`` are cut.

        Returns:
            Answers in the order of the texts.
        """
        if not texts:
            return Answers(np.empty((0, len(self.labels)), np.float32), np.empty(0, bool))
        # One piece more than is read, to know which texts were cut.
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_length + 1)
        ids = [pieces[: self.max_length + 1] for pieces in ids["input_ids"]]
        cut = np.array([len(pieces) > self.max_length for pieces in ids], dtype=bool)
        order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
        found = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        pad = self.tokenizer.pad_token_id
        for begin in range(0, len(order), self.batch_rows):
            rows = order[begin : begin + self.batch_rows]
            pieces = [ids[row][: self.max_length] for row in rows]
            width = max(map(len, pieces))
            inputs = torch.full((len(rows), width), pad)
            mask = torch.zeros((len(rows), width), dtype=torch.long)
            for index, own in enumerate(pieces):
                inputs[index, : len(own)] = torch.tensor(own)
                mask[index, : len(own)] = 1
            found[rows] = self.answer(inputs, mask).cpu().numpy()
        return Answers(found, cut)

    @torch.inference_mode()
    def answer(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Answer token ids.

        Args:
            ids: The start token and the input, shape (B, T), int64.
            mask: 1 at inputs and 0 at padding, shape (B, T); None: no padding.

        Returns:
            Probabilities, shape (B, K), float32.
        """
        mask = torch.ones_like(ids) if mask is None else mask
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        probabilities: torch.Tensor = logits.float().softmax(dim=1)
        return probabilities


def load_classifier(folder: Path, device: str) -> Classifier:
    """Load a directory that holds a sequence-classification model.

    Args:
        folder: A student's directory, or any like it.
        device: Device to put it on.

    Raises:
        ModelError: It is no such directory.
    """
    from transformers import AutoModelForSequenceClassification

    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is no model directory (it has no config.json); 'pipeline student' makes one"
        )
    model = load_weights(
        AutoModelForSequenceClassification, str(folder), "a classifier", dtype=torch.float32
    )
    tokenizer = load_tokenizer(folder)
    labels = tuple(str(model.config.id2label[k]) for k in range(model.config.num_labels))
    return Classifier(
        model.to(device).eval(), tokenizer, labels, min(int(tokenizer.model_max_length), 100_000)
    )
