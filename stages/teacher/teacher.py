"""The teacher function g: input embeddings to class logits, through a prompted causal LM.

The prompt's embeddings are put around the input's, the language model runs once, and only the
label words' logits are computed, at the last position (paper, Eq. 9 and section 4.1).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cache.draw import send
from stages.errors import ModelError
from stages.lm import embed_vocabulary
from stages.tasks import Task, Verbaliser, build_verbaliser, frame_task
from stages.teacher.capabilities import (
    check_room,
    find_passes,
    is_out_of_memory,
    refuse_out_of_memory,
)
from stages.teacher.forward import ForwardPass, FullPass, WordHead
from stages.teacher.word_scores import WordScorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Embed = Callable[[np.ndarray, int], torch.Tensor]
"""Takes the indices (B,) of rows and their one length T, returns their inputs, (B, T, d_T)."""
Batch = tuple[tuple[np.ndarray, int], ...]
"""For each length, in rising order, the indices (B,) of the rows of that length, and it."""
Advance = Callable[[int], None]
"""Takes the number of rows or tokens that are done since; may raise to stop."""


class Teacher:
    """A causal language model behind one task's prompt.

    The model's output layer is cut down to the label words; where no verbaliser is given, they are
    looked up.  If ``chat``, the prompt goes through the tokenizer's chat template.  ``warn`` takes
    a line when batches are made smaller than asked.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        chat: bool = False,
        verbaliser: Verbaliser | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.model, self.tokenizer, self.task, self.chat = model, tokenizer, task, chat
        self.warn = warn
        self.verbaliser = verbaliser or build_verbaliser(task, tokenizer, chat)
        frame = frame_task(task, tokenizer, chat)
        self.prefix_ids, self.suffix_ids = list(frame.prefix_ids), list(frame.suffix_ids)
        self.device = model.get_input_embeddings().weight.device
        tree = self.verbaliser.tree
        longest = max(map(len, self.verbaliser.sequences))
        words = ", a label word" if longest > 1 else ""
        check_room(
            model,
            f"task {task.name}: prompt, suffix{words} and an input of {task.max_length} tokens",
            len(self.prefix_ids) + len(self.suffix_ids) + longest - 1,
            task.max_length,
        )
        self.table = embed_vocabulary(model)
        self._full_head = model.get_output_embeddings()
        self._suffix = self.look_up(np.array([self.suffix_ids]))
        try:
            with torch.inference_mode():
                self._scorer = WordScorer(tree, model, self._full_head, self.table)
                model.set_output_embeddings(WordHead(self._full_head, tree.columns))
                prefix = self.look_up(np.array([self.prefix_ids]))
                # The answer to no input, which no way but the full pass can be asked for.
                bare = torch.cat([prefix, self._suffix], dim=1)
                self._empty_answer: Any = None
                if bare.shape[1]:
                    self._empty_answer = self._scorer.score(FullPass(model, bare[:, :0]), [bare])
                self.passes, self.fallbacks = find_passes(
                    model, prefix, self._suffix, self.table, task.max_length, self._scorer.branches
                )
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            model.set_output_embeddings(self._full_head)
            what = f"a few rows of {task.max_length} tokens besides the model"
            refuse_out_of_memory(error, self.device, what)
        self.rows_written: int | None = None  # most side by side, where memory was too short
        self.forward_pass = self.passes[0]
        self.use_pass(self.forward_pass)

    def use_pass(self, forward_pass: ForwardPass) -> None:
        """Answer in another one of ``passes`` from now on."""
        self.forward_pass.leave()
        forward_pass.enter()
        self.forward_pass = forward_pass
        self.positions_around = len(self.suffix_ids) + len(self.verbaliser.tree.tokens)
        if not forward_pass.mixes_lengths:
            self.positions_around += len(self.prefix_ids)
        self._most_positions: int | None = None

    def compute_class_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Answer inputs of one length, shape (B, T, d_T), with class logits, (B, K), float32."""
        return self.answer_groups([embeddings])

    @torch.inference_mode()
    def answer_groups(self, groups: Sequence[torch.Tensor]) -> torch.Tensor:
        """Answer inputs, for each length of shape (B, T, d_T), T may be 0.

        Returns class logits, shape (all B, K), float32, on the model's device.
        """
        inputs = [
            torch.cat([part.to(self.table), self._suffix.expand(len(part), -1, -1)], dim=1)
            for part in groups
        ]
        filled = [part for part in inputs if part.shape[1]]
        if len(filled) < len(inputs) and self._empty_answer is None:
            raise ModelError("an empty input needs a prompt or a suffix to be answered")
        sizes = [len(part) for part in filled]
        scores = self._scorer.score(self.forward_pass, filled) if filled else None
        answered = iter(() if scores is None else scores.split(sizes))
        found = [
            next(answered) if part.shape[1] else self._empty_answer.expand(len(part), -1)
            for part in inputs
        ]
        return self.verbaliser.compute_class_logits(torch.cat(found))

    def answer_rows(
        self, lengths: np.ndarray, embed: Embed, batch_positions: int, advance: Advance
    ) -> np.ndarray:
        """Answer rows of any lengths, shape (N,), none of them padded.

        On a GPU a batch is set going before the one in front of it has ended.  ``batch_positions``
        is the most positions in one forward pass, unless a single row has more.  Returns class
        logits, shape (N, K), float32; raises ModelError where a single row is too much for the
        device's memory.
        """
        logits = np.empty((len(lengths), len(self.verbaliser.labels)), dtype=np.float32)
        batches = plan_batches(
            lengths, self.positions_around, batch_positions, self.forward_pass.mixes_lengths
        )
        begun = (part for batch in batches for part in self._begin(batch, embed))
        end: Any = None
        for (rows, wait), _ in itertools.pairwise(itertools.chain(begun, [end])):
            logits[rows] = wait()
            advance(len(rows))
        return logits

    def answer_texts(
        self, tokens: np.ndarray, lengths: np.ndarray, batch_positions: int, advance: Advance
    ) -> np.ndarray:
        """Answer token ids, shape (N, longest), padded behind; as for :meth:`answer_rows`."""
        return self.answer_rows(
            lengths,
            lambda rows, length: self.look_up(tokens[rows, :length]),
            batch_positions,
            advance,
        )

    def look_up(self, tokens: np.ndarray) -> torch.Tensor:
        """Return the embeddings of token ids (B, T), shape (B, T, d_T)."""
        return self.table[send(tokens.astype(np.int64), self.device)]

    def release(self) -> None:
        """Have the model as it was loaded, for another teacher."""
        self.forward_pass.leave()
        self.model.set_output_embeddings(self._full_head)

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Have the model as it was loaded for a while, its whole output layer included."""
        small = self.model.get_output_embeddings()
        self.release()
        # In half precision a CPU copies the whole layer for each row of a slice; a product is none.
        dense = self._full_head.register_forward_pre_hook(lambda _, given: given[0] * 1)
        try:
            with dense:
                yield
        finally:
            self.forward_pass.enter()
            self.model.set_output_embeddings(small)

    def _begin(
        self, batch: Batch, embed: Embed
    ) -> Iterator[tuple[np.ndarray, Callable[[], np.ndarray]]]:
        """Set a batch going, in parts if the device cannot hold it at once."""
        rows = np.concatenate([part for part, _ in batch])
        positions = sum(len(part) * (length + self.positions_around) for part, length in batch)
        most = self._most_positions
        if most is None or positions <= most or len(rows) == 1:
            try:
                yield rows, _fetch(self.answer_groups([embed(*group) for group in batch]))
                return
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if len(rows) == 1 or not is_out_of_memory(error):
                    what = f"a single row of {positions} positions"
                    refuse_out_of_memory(error, self.device, what)
            self._most_positions = positions // 2
            self.warn(
                f"{self.device} has no memory for {positions:,} positions at once; going on with "
                f"at most {self._most_positions:,} (other rounding in the last bits, no other rows)"
            )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        middle = len(rows) // 2
        for chosen in (rows[:middle], rows[middle:]):
            half = ((part[np.isin(part, chosen)], length) for part, length in batch)
            yield from self._begin(tuple(x for x in half if len(x[0])), embed)


def plan_batches(lengths: np.ndarray, around: int, budget: int, mixed: bool) -> Iterator[Batch]:
    """Fill one batch after another with the shortest rows that are left.

    ``lengths``, shape (N,), are the rows' tokens, ``around`` are positions that each takes besides;
    ``budget`` is the most positions in a batch, unless a single row has more.
    """
    groups: list[tuple[np.ndarray, int]] = []
    room = budget
    for length in map(int, np.unique(lengths)):
        alike = np.flatnonzero(lengths == length)
        cost = max(1, length + around)
        while len(alike):
            take = min(len(alike), max(0, room) // cost) or (0 if groups else 1)
            if take:
                groups.append((alike[:take], length))
                alike, room = alike[take:], room - take * cost
            if len(alike) or not mixed:
                yield tuple(groups)
                groups, room = [], budget
    if groups:
        yield tuple(groups)


def _fetch(logits: torch.Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy logits from the device; what is returned waits for them and gives them."""
    if not logits.is_cuda:
        return logits.numpy
    # Copied behind this batch and in front of the next, or waiting would be for both.
    copied = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
    copied.copy_(logits, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(logits.device))

    def wait() -> np.ndarray:
        ready.synchronize()
        return copied.numpy()

    return wait
