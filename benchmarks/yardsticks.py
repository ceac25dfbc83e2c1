"""What ``benchmarks.teacher`` measures the teacher against, on the very same rows.

Two loops as users write them, and a floor: the matrix products that cannot be done without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from benchmarks.subjects import Rows, Shape
from cache.draw import VocabularySampler
from stages.reporter import SilentReporter
from stages.tasks import Verbaliser
from stages.teacher import Batch, Callbacks, Teacher, find_tuning, plan_batches

BATCH_ROWS = 32
"""Rows of a batch in both users' loops."""
QUERIES_AT_ONCE = 256
"""Positions of the floor's products with the prompt's keys: few enough for scores to stay near."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A user's loop around transformers' model: ``obvious``, or ``careful``.

    Both put the prompt in front of every row and pad on the left to the longest row of a batch.
    The obvious one takes rows in random order and has all logits computed; the careful one sorts
    rows by length and asks for the last position's logits alone.

    Attributes:
        model: The model, as transformers gives it.
        prompt: Token ids in front of every input.
        verbaliser: The label words.
        careful: Which of the two.
    """

    model: Any
    prompt: tuple[int, ...]
    verbaliser: Verbaliser
    careful: bool

    @torch.inference_mode()
    def answer(self, rows: Rows) -> np.ndarray:
        """Return the class probabilities of rows, shape (N, K)."""
        count = len(rows.lengths)
        order = np.random.default_rng(1).permutation(count)
        if self.careful:
            order = np.argsort(rows.lengths, kind="stable")
        words = np.empty((count, len(self.verbaliser.words)), dtype=np.float32)
        for begin in range(0, count, BATCH_ROWS):
            part = order[begin : begin + BATCH_ROWS]
            logits = self._run(rows.select(part))
            probabilities = logits[:, -1].float().softmax(dim=-1).cpu().numpy()
            words[part] = probabilities[:, list(self.verbaliser.token_ids)]
        return divide_by_class(words, self.verbaliser)

    def _run(self, rows: Rows) -> torch.Tensor:
        device = self.model.device
        embed = self.model.get_input_embeddings()
        prompt = embed(torch.tensor(self.prompt, device=device))
        width = len(prompt) + int(rows.lengths.max())
        inputs = prompt.new_zeros(len(rows.lengths), width, prompt.shape[1])
        mask = torch.zeros(len(rows.lengths), width, dtype=torch.long, device=device)
        for k, length in enumerate(map(int, rows.lengths)):
            own = embed(torch.from_numpy(rows.tokens[k, :length]).to(device))
            inputs[k, width - len(prompt) - length :] = torch.cat([prompt, own])
            mask[k, width - len(prompt) - length :] = 1
        logits: torch.Tensor = self.model(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1 if self.careful else 0,
        ).logits
        return logits


@dataclass(eq=False)
class Ours:
    """The teacher, with the batches that it finds to be fastest.

    Attributes:
        teacher: The teacher.
        batch_positions: Most positions of a batch.
        notes: What it said about its batches.
    """

    teacher: Teacher
    batch_positions: int
    notes: list[str] = field(default_factory=list)

    @classmethod
    def tune(cls, teacher: Teacher, lengths: np.ndarray, compiling: str = "off") -> Ours:
        """Find the batches as the teacher stage does."""
        reporter = SilentReporter()
        tuning = find_tuning(teacher, lengths, None, compiling, reporter)
        return cls(teacher, tuning.batch_positions, [*reporter.lines, *reporter.warnings])

    def answer(self, rows: Rows) -> np.ndarray:
        """Return the class probabilities of rows, drawn from their seeds, shape (N, K)."""
        sampler = VocabularySampler(self.teacher.table)
        logits = self.teacher.answer_rows(
            rows.lengths,
            lambda part, length: sampler.draw_embeddings(rows.seeds[part], length),
            self.batch_positions,
            Callbacks(lambda done: None, self.notes.append),
        )
        return torch.from_numpy(logits).softmax(dim=1).numpy()

    def plan(self, rows: Rows) -> Iterator[Batch]:
        """Yield the batches that rows are answered in."""
        return plan_batches(
            rows.lengths,
            self.teacher.positions_around,
            self.batch_positions,
            self.teacher.forward_pass.mixes_lengths,
        )


class Floor:
    """The matrix products of packed rows behind a prompt whose keys and values are known.

    Random weights, a set for every layer; nothing between the products: no norms, rotations,
    softmax, activations or copies.  The last layer's queries, outputs and MLP are computed for
    last positions alone, and of a row's own scores only the half that a causal model reads.

    Args:
        shape: The model's shape.
        prompt: Positions of the prompt.
        batches: The batches of :meth:`Ours.plan`.
        around: Positions of a row beside its own tokens.
    """

    def __init__(self, shape: Shape, prompt: int, batches: list[Batch], around: int = 0) -> None:
        self._shape, self._heads = shape, shape.heads
        self._groups = [
            [(len(rows), length + around) for rows, length in batch] for batch in batches
        ]
        most = max(sum(n * length for n, length in groups) for groups in self._groups)
        width, inner, size = shape.width, shape.inner, shape.width // shape.heads
        chance = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=chance)

        self._weights = [
            [draw(width, width) for _ in range(4)]
            + [draw(inner, width), draw(inner, width), draw(width, inner)]
            for _ in range(shape.layers)
        ]
        self._prompt = draw(shape.heads, prompt, size)
        self._hidden, self._inner = draw(most, width), draw(most, inner)
        self._query = draw(shape.heads, most, size)
        # Of each group as many keys as its rows' queries, which is enough for half of them.
        self._keys = draw(most * shape.heads, size)
        self.products = self.attention = 0.0

    @torch.inference_mode()
    def run(self) -> None:
        """Do the products of all batches once; the seconds go to ``products``, ``attention``."""
        self.products = self.attention = 0.0
        for groups in self._groups:
            for layer in range(self._shape.layers):
                last = layer == self._shape.layers - 1
                self.products += timed(lambda g=groups, k=layer, e=last: self._multiply(g, k, e))
                self.attention += timed(lambda g=groups, e=last: self._attend(g, e))

    def _multiply(self, groups: list[tuple[int, int]], layer: int, ends_only: bool) -> None:
        query, key, value, out, gate, up, down = self._weights[layer]
        every = sum(count * length for count, length in groups)
        asked = sum(count for count, _ in groups) if ends_only else every
        linear(self._hidden[:every], key)
        linear(self._hidden[:every], value)
        for weight in (query, out, gate, up):
            linear(self._hidden[:asked], weight)
        linear(self._inner[:asked], down)

    def _attend(self, groups: list[tuple[int, int]], ends_only: bool) -> None:
        asked = sum(count if ends_only else count * length for count, length in groups)
        for query in self._query[:, :asked].split(QUERIES_AT_ONCE, dim=1):
            torch.matmul(torch.matmul(query, self._prompt.transpose(1, 2)), self._prompt)
        for count, length in groups:
            rows = self._keys[: count * length * self._heads].view(count * self._heads, length, -1)
            query = rows[:, -1:] if ends_only else rows
            # A last position reads all keys, the others half of them on average.
            keys = rows if ends_only else rows[:, : (length + 1) // 2]
            torch.matmul(torch.matmul(query, keys.transpose(1, 2)), keys)


def divide_by_class(words: np.ndarray, verbaliser: Verbaliser) -> np.ndarray:
    """Turn probabilities of label words (N, words) into those of the classes, (N, K)."""
    columns = np.array(verbaliser.columns)
    best = [words[:, columns == k].max(axis=1) for k in range(len(verbaliser.labels))]
    classes = np.stack(best, axis=1)
    found: np.ndarray = classes / classes.sum(axis=1, keepdims=True)
    return found


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
