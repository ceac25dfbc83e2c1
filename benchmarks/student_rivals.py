"""What ``benchmarks.student`` measures students against: the teacher, and classical statistics.

The teacher is asked as anyone asks a language model for a label: prompt, text and suffix as one
input, the whole vocabulary's logits at its last position, the best of each label's words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.yardsticks import divide_by_class
from stages.language_model import load_language_model, load_tokenizer, resolve_model
from stages.prompting import frame_task
from stages.task import Task
from stages.teacher import Teacher, Watch
from stages.texts import TextRow, read_texts
from stages.verbaliser import Verbaliser, build_verbaliser

Answer = Callable[[list[str]], np.ndarray]
"""Texts to class probabilities, shape (N, K)."""

BATCH_ROWS = 32
"""Texts of a batch of the loop that pads."""

BATCH_POSITIONS = 2048
"""Positions of a batch of the teacher stage's, as its trial finds for the mini teacher."""

GOLD = "the gold labels of {count:,} training texts"
TAUGHT = "the teacher's labels of {count:,} random texts"


@dataclass(frozen=True, eq=False)
class ObviousTeacher:
    """The language model in a user's loop around transformers.

    Attributes:
        model: The model, as transformers gives it.
        tokenizer: Its tokenizer.
        prefix: Ids in front of a text.
        suffix: Ids behind it.
        max_length: Longest text in pieces.
        verbaliser: The label words.
    """

    model: Any
    tokenizer: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    max_length: int
    verbaliser: Verbaliser

    @classmethod
    def load(cls, task: Task, name: str = "mini") -> ObviousTeacher:
        """Load a language model for a task, in float32 on the CPU."""
        folder = resolve_model(name)
        tokenizer = load_tokenizer(folder)
        frame = frame_task(task, tokenizer)
        return cls(
            load_language_model(folder, "cpu", "float32"),
            tokenizer,
            frame.prefix_ids,
            frame.suffix_ids,
            task.max_length,
            build_verbaliser(task, tokenizer),
        )

    def answer_each(self, texts: list[str]) -> np.ndarray:
        """Answer texts one by one."""
        return np.concatenate([self._run([ids]) for text in texts for ids in self.encode([text])])

    def answer_padded(self, texts: list[str]) -> np.ndarray:
        """Answer texts in their order, in batches padded on the left."""
        parts = [texts[k : k + BATCH_ROWS] for k in range(0, len(texts), BATCH_ROWS)]
        return np.concatenate([self._run(self.encode(part)) for part in parts])

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return prompt, text and suffix of each text as ids."""
        found = self.tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=self.max_length
        )
        return [[*self.prefix, *ids, *self.suffix] for ids in found["input_ids"]]

    @torch.inference_mode()
    def _run(self, rows: Sequence[list[int]]) -> np.ndarray:
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self.model(input_ids=ids, attention_mask=mask, position_ids=places).logits
        words = logits[:, -1].float().softmax(dim=-1).numpy()
        return divide_by_class(words[:, list(self.verbaliser.token_ids)], self.verbaliser)


def load_own_teacher(task: Task, name: str = "mini") -> Answer:
    """Load the teacher as this project's first stage runs it, texts in and probabilities out."""
    folder = resolve_model(name)
    tokenizer = load_tokenizer(folder)
    teacher = Teacher(load_language_model(folder, "cpu", "float32"), tokenizer, task)
    watch = Watch(lambda rows: None, lambda warning: None)

    def answer(texts: list[str]) -> np.ndarray:
        found = tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=task.max_length
        )["input_ids"]
        lengths = np.array([len(ids) for ids in found])
        tokens = np.zeros((len(found), int(lengths.max(initial=0))), dtype=np.int64)
        for row, ids in enumerate(found):
            tokens[row, : len(ids)] = ids
        logits = teacher.answer_rows(
            lengths,
            lambda part, length: teacher.look_up(tokens[part, :length]),
            BATCH_POSITIONS,
            watch,
        )
        return torch.from_numpy(logits).softmax(dim=1).numpy()

    return answer


def train_statistics(texts: list[str], labels: Sequence[int], classes: int) -> Answer | None:
    """Train scikit-learn's TF-IDF and logistic regression; None where it is not installed.

    Args:
        texts: What to train on.
        labels: Their columns.
        classes: K; a class without a text gets the probability 0.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        return None
    # Words and pairs of them, as commonly used; every token, so that no text is without one.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\S+")
    model = make_pipeline(words, LogisticRegression(max_iter=1000)).fit(texts, labels)
    columns = model.classes_

    def answer(given: list[str]) -> np.ndarray:
        found = np.zeros((len(given), classes), dtype=np.float32)
        found[:, columns] = model.predict_proba(given)
        return found

    return answer


def train_on(
    data: Path | None, task: Task, texts: list[str], taught: Callable[[], np.ndarray]
) -> tuple[Answer | None, str]:
    """Train the statistics on what there is.

    Args:
        data: Folder of the task's files, or None.
        task: The task.
        texts: What to train on where there is no folder.
        taught: The teacher's probabilities for these.

    Returns:
        The classifier, and what it was trained on.
    """
    names = task.label_names
    if data is not None:
        rows = read_texts(data / "train.jsonl.gz")
        gold = read_columns(rows, names)
        own = train_statistics([row.text for row in rows], gold, len(names))
        return own, GOLD.format(count=len(rows))
    labels = taught().argmax(axis=1).tolist()
    own = train_statistics(texts, labels, len(names)) if len(set(labels)) > 1 else None
    return own, TAUGHT.format(count=len(texts))


def read_columns(rows: Sequence[TextRow], names: Sequence[str]) -> list[int]:
    """Return the columns of texts' labels."""
    return [names.index(str(row.label)) for row in rows]
