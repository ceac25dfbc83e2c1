"""What the teacher and the students are measured against.

The language model in a loop as users write it; the teacher with its batches; and a floor: the
matrix products that cannot be done without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from benchmarks.subjects import Rows, Shape
from cache.draw import VocabularySampler
from stages.reporter import SilentReporter
from stages.tasks import Frame, Task, Verbaliser, build_verbaliser, frame_task
from stages.teacher import Batch, Teacher, find_tuning, plan_batches

BATCH_ROWS = 32
"""Rows of a batch in users' loops."""
QUERIES_AT_ONCE = 256
"""Positions of the floor's products with the prompt's keys: few enough for scores to stay near."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A user's loop around transformers' model: ``obvious``, or ``careful``.

    Both put the prompt around every input and pad on the left to the longest of a batch.  The
    obvious one takes inputs as they come and has all logits computed; the careful one sorts them
    by length and asks for the last position's logits alone.
    """

    model: Any
    frame: Frame
    verbaliser: Verbaliser
    careful: bool
    batch_rows: int

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, task: Task, careful: bool, batch_rows: int = BATCH_ROWS
    ) -> Loop:
        """Make a loop for a task."""
        frame, verbaliser = frame_task(task, tokenizer), build_verbaliser(task, tokenizer)
        return cls(model, frame, verbaliser, careful, batch_rows)

    def answer_rows(self, rows: Rows) -> np.ndarray:
        """Return the class probabilities of rows, shape (N, K)."""
        return self.answer(rows.inputs)

    @torch.inference_mode()
    def answer(self, inputs: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        """Return the class probabilities of inputs of token ids, shape (N, K)."""
        before, behind = list(self.frame.prefix_ids), list(self.frame.suffix_ids)
        rows = [np.concatenate([before, ids, behind]).astype(np.int64) for ids in inputs]
        order = list(range(len(rows)))
        if self.careful:
            order.sort(key=lambda k: len(rows[k]))
        found = np.empty((len(rows), len(self.verbaliser.labels)), dtype=np.float32)
        for begin in range(0, len(rows), self.batch_rows):
            part = order[begin : begin + self.batch_rows]
            logits = self._run([rows[k] for k in part])[:, list(self.verbaliser.token_ids)]
            classes = self.verbaliser.compute_class_logits(logits)
            found[part] = classes.softmax(dim=1).cpu().numpy()
        return found

    def _run(self, rows: list[np.ndarray]) -> torch.Tensor:
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for k, row in enumerate(rows):
            ids[k, width - len(row) :] = torch.from_numpy(row)
            mask[k, width - len(row) :] = 1
        mask = mask.to(self.model.device)
        logits: torch.Tensor = self.model(
            input_ids=ids.to(mask.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1 if self.careful else 0,
        ).logits
        return logits[:, -1]


@dataclass(eq=False)
class Ours:
    """The teacher, with the batches that it finds to be fastest."""

    teacher: Teacher
    batch_positions: int
    notes: list[str] = field(default_factory=list)  # what it said about its batches

    @classmethod
    def tune(cls, teacher: Teacher, lengths: np.ndarray, compiling: str = "off") -> Ours:
        """Find the batches as the teacher stage does."""
        reporter = SilentReporter()
        tuning = find_tuning(teacher, lengths, None, compiling, reporter)
        found = cls(teacher, tuning.batch_positions, [*reporter.lines, *reporter.warnings])
        teacher.warn = found.notes.append
        return found

    def answer(self, rows: Rows) -> np.ndarray:
        """Return the class probabilities of rows, drawn from their seeds, shape (N, K)."""
        sampler = VocabularySampler(self.teacher.table)
        logits = self.teacher.answer_rows(
            rows.lengths,
            lambda part, length: sampler.draw_embeddings(rows.seeds[part], length),
            self.batch_positions,
            lambda done: None,
        )
        return torch.from_numpy(logits).softmax(dim=1).numpy()

    def plan(self, rows: Rows) -> Iterator[Batch]:
        """Yield the batches that rows are answered in."""
        mixes_lengths = self.teacher.forward_pass.mixes_lengths
        around = self.teacher.positions_around
        return plan_batches(rows.lengths, around, self.batch_positions, mixes_lengths)


class Floor:
    """The matrix products of packed rows behind a prompt whose keys and values are known.

    Random weights, a set for every layer; nothing between the products: no norms, rotations,
    softmax, activations or copies.  The last layer's queries, outputs and MLP are computed for
    last positions alone, and of a row's own scores only the half that a causal model reads.

    Args:
        shape: The model's shape.
        prompt: Positions of the prompt.
        batches: The batches of :meth:`Ours.plan`; a row has no positions but its own.
    """

    def __init__(self, shape: Shape, prompt: int, batches: list[Batch]) -> None:
        self._heads = shape.heads
        self._groups = [[(len(rows), length) for rows, length in batch] for batch in batches]
        most = max(sum(n * length for n, length in groups) for groups in self._groups)
        width, inner, size = shape.width, shape.inner, shape.width // shape.heads
        torch.manual_seed(0)
        sides = [(width, width)] * 4 + [(inner, width), (inner, width), (width, inner)]
        self._weights = [[torch.randn(side) for side in sides] for _ in range(shape.layers)]
        self._prompt = torch.randn(shape.heads, prompt, size)
        self._hidden, self._inner = torch.randn(most, width), torch.randn(most, inner)
        self._query = torch.randn(shape.heads, most, size)
        # Of each group as many keys as its rows' queries, which is enough for half of them.
        self._keys = torch.randn(most * shape.heads, size)

    @torch.inference_mode()
    def run(self) -> None:
        """Do the products of all batches once."""
        for groups in self._groups:
            for weights in self._weights:
                is_last = weights is self._weights[-1]
                self._multiply(groups, weights, is_last)
                self._attend(groups, is_last)

    def _multiply(
        self, groups: list[tuple[int, int]], weights: list[torch.Tensor], is_last: bool
    ) -> None:
        query, key, value, out, gate, up, down = weights
        every = sum(count * length for count, length in groups)
        asked = sum(count for count, _ in groups) if is_last else every
        linear(self._hidden[:every], key)
        linear(self._hidden[:every], value)
        for weight in (query, out, gate, up):
            linear(self._hidden[:asked], weight)
        linear(self._inner[:asked], down)

    def _attend(self, groups: list[tuple[int, int]], is_last: bool) -> None:
        asked = sum(count if is_last else count * length for count, length in groups)
        for query in self._query[:, :asked].split(QUERIES_AT_ONCE, dim=1):
            torch.matmul(torch.matmul(query, self._prompt.transpose(1, 2)), self._prompt)
        for count, length in groups:
            rows = self._keys[: count * length * self._heads].view(count * self._heads, length, -1)
            query = rows[:, -1:] if is_last else rows
            # A last position reads all keys, the others half of them on average.
            keys = rows if is_last else rows[:, : (length + 1) // 2]
            torch.matmul(torch.matmul(query, keys.transpose(1, 2)), keys)
