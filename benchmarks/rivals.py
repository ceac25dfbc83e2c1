"""What students are measured beside: the teacher itself, as users ask it, and bags of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.lm import load_language_model, resolve_model
from stages.loading import load_tokenizer
from stages.tasks import Frame, Task, Verbaliser, build_verbaliser, frame_task
from stages.texts import read_texts

BATCH_ROWS = 64
"""Texts of a padded batch, as many as students have."""


@dataclass(frozen=True, eq=False)
class PromptedTeacher:
    """The mini teacher behind its prompt, in transformers alone.

    Attributes:
        model: The language model.
        tokenizer: Its tokenizer.
        frame: What stands around a text.
        verbaliser: The label words.
        max_length: Most tokens of a text.
    """

    model: Any
    tokenizer: Any
    frame: Frame
    verbaliser: Verbaliser
    max_length: int

    @classmethod
    def load(cls, task: Task) -> PromptedTeacher:
        """Load the mini teacher for a task."""
        folder = resolve_model("mini")
        tokenizer = load_tokenizer(folder)
        return cls(
            load_language_model(folder, "cpu", "float32"),
            tokenizer,
            frame_task(task, tokenizer),
            build_verbaliser(task, tokenizer),
            task.max_length,
        )

    @torch.inference_mode()
    def tag_each(self, texts: Sequence[str]) -> np.ndarray:
        """Give each text a forward pass of its own; return class probabilities, shape (N, K)."""
        found = []
        for ids in self._encode(texts):
            logits = self.model(input_ids=torch.tensor([ids])).logits[:, -1]
            found.append(self._score(logits))
        return np.concatenate(found)

    @torch.inference_mode()
    def tag_padded(self, texts: Sequence[str]) -> np.ndarray:
        """Do the same with care: sorted, padded on the left, the last position's logits alone."""
        ids = self._encode(texts)
        order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
        found = np.empty((len(ids), len(self.verbaliser.labels)), dtype=np.float32)
        for begin in range(0, len(order), BATCH_ROWS):
            rows = order[begin : begin + BATCH_ROWS]
            width = max(len(ids[row]) for row in rows)
            inputs = torch.zeros(len(rows), width, dtype=torch.long)
            mask = torch.zeros_like(inputs)
            for k, row in enumerate(rows):
                inputs[k, width - len(ids[row]) :] = torch.tensor(ids[row])
                mask[k, width - len(ids[row]) :] = 1
            logits = self.model(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits
            found[rows] = self._score(logits[:, -1])
        return found

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        own = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        frame = self.frame
        return [[*frame.prefix_ids, *ids[: self.max_length], *frame.suffix_ids] for ids in own]

    def _score(self, logits: torch.Tensor) -> np.ndarray:
        words = logits[:, list(self.verbaliser.token_ids)]
        found: np.ndarray = self.verbaliser.compute_class_logits(words).softmax(dim=1).numpy()
        return found


def train_bag_of_words(file: Path) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
    """Train scikit-learn's TF-IDF and logistic regression on a file's gold labels.

    Returns:
        A function from texts to class probabilities, (N, K), and the number of texts learned from.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = read_texts(file)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([row.text for row in rows], [row.label for row in rows])
    return model.predict_proba, len(rows)
