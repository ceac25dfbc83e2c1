"""Scores of single words, from which every way of scoring a label follows."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stages.errors import TaskError
from stages.tasks import Task, Verbaliser, build_verbaliser


@dataclass(frozen=True)
class WordScores(Verbaliser):
    """Gives the score of every word that any way of scoring asks for, not a label's."""

    whole: Any = None
    first: Any = None  # None where first tokens cannot tell the labels apart

    @property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """Those of whole words, then those of first tokens."""
        return self.whole.sequences + (() if self.first is None else self.first.sequences)

    def compute_class_logits(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores as they are."""
        return scores.float()

    def reduce(self, scores: np.ndarray, word: str, label: str) -> np.ndarray | None:
        """Return class logits, shape (N, K), of kept scores; None where there are none."""
        count = len(self.whole.sequences)
        part, way = (scores[:, :count], self.whole)
        if word == "first-token":
            part, way = scores[:, count:], self.first
        if way is None:
            return None
        found = replace(way, label_score=label).compute_class_logits(torch.from_numpy(part))
        return np.asarray(found)


def make_word_scores(task: Task, tokenizer: Any, chat: bool) -> WordScores:
    """Look up the label words in both ways of scoring a word."""
    whole = build_verbaliser(replace(task, word_score="whole"), tokenizer, chat)
    try:
        first = build_verbaliser(replace(task, word_score="first-token"), tokenizer, chat)
    except TaskError as error:
        print(f"first tokens: {error}", file=sys.stderr)
        first = None
    names = [str(k) for k in range(len(whole.sequences) + len(first.sequences if first else ()))]
    return WordScores(whole.words, whole.columns, tuple(names), whole=whole, first=first)
