"""The teacher function g: input embeddings to class logits, through a prompted causal LM.

The prompt's embeddings are put around the input's, the language model runs once, and only the
label words' logits are computed, at the last position (paper, Eq. 9 and section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cache.draw import send
from stages.errors import ModelError
from stages.lm import embed_vocabulary
from stages.tasks import build_verbaliser, frame_task
from stages.teacher.batching import Batch, plan_batches
from stages.teacher.forward import FullPass, choose_pass

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.tasks import Task

Embed = Callable[[np.ndarray, int], torch.Tensor]
"""Takes the indices (B,) of rows and their one length T, returns their inputs, (B, T, d_T)."""


@dataclass(frozen=True)
class Callbacks:
    """Who is told while rows are answered.

    Attributes:
        advance: Called with the number of rows that are done; may raise to stop.
        warn: Called with a line when batches are made smaller than asked.
    """

    advance: Callable[[int], None]
    warn: Callable[[str], None]


class Teacher:
    """A causal language model behind one task's prompt.

    Attributes:
        model: The model; its output layer is cut down to the label words.
        tokenizer: Its tokenizer.
        task: The task.
        chat: Whether the prompt goes through the tokenizer's chat template.
        verbaliser: The label words.
        prefix_ids: Tokens in front of the input, BOS first where the tokenizer has one.
        suffix_ids: Tokens behind the input.
        table: The embedding of every token id, shape (V, d_T), in the model's number format.
        forward_pass: How the model is run.
        fallbacks: Why no better way to run it can be used, one line for each.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        chat: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.task, self.chat = model, tokenizer, task, chat
        self.verbaliser = build_verbaliser(task, tokenizer, chat)
        frame = frame_task(task, tokenizer, chat)
        self.prefix_ids, self.suffix_ids = list(frame.prefix_ids), list(frame.suffix_ids)
        self.device = model.get_input_embeddings().weight.device
        self._check_length(task)
        self.table = embed_vocabulary(model)
        self._full_head = model.get_output_embeddings()
        model.set_output_embeddings(WordHead(self._full_head, self.verbaliser.token_ids))
        self._suffix = self._look_up(self.suffix_ids)
        prefix = self._look_up(self.prefix_ids)
        try:
            self._choose_pass(prefix, task.max_length)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"{self.device} holds the model, and has no memory left for a few rows of "
                f"{task.max_length} tokens; use a smaller model, --quantise or a shorter max_length"
            ) from error
        self.positions_around = len(self.suffix_ids)
        if not self.forward_pass.mixes_lengths:
            self.positions_around += len(self.prefix_ids)
        self._most_positions: int | None = None

    @property
    def runs_prompt_with_rows(self) -> bool:
        """Whether there is a prompt in front of the input, and it is run anew with every row."""
        return bool(self.prefix_ids) and isinstance(self.forward_pass, FullPass)

    def compute_class_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Answer a batch of inputs of one length.

        Args:
            embeddings: Input embeddings, shape (B, T, d_T), T may be 0.

        Returns:
            Class logits, shape (B, K), float32, on the model's device.
        """
        return self.answer_groups([embeddings])

    @torch.inference_mode()
    def answer_groups(self, groups: Sequence[torch.Tensor]) -> torch.Tensor:
        """Answer a batch of inputs of several lengths.

        Args:
            groups: For each length the inputs of that length, shape (B, T, d_T).

        Returns:
            Class logits, shape (all B, K), float32, on the model's device.

        Raises:
            ModelError: An input is empty, and there is neither a prompt nor a suffix.
        """
        inputs = [
            torch.cat([part.to(self.table), self._suffix.expand(len(part), -1, -1)], dim=1)
            for part in groups
        ]
        filled = [part for part in inputs if part.shape[1]]
        answers = self.forward_pass.run(filled) if filled else self.table.new_empty(0)
        answered = iter(answers.split([len(part) for part in filled]) if filled else ())
        found = []
        for part in inputs:
            if part.shape[1]:
                found.append(next(answered))
            elif self._silence is None:
                raise ModelError("an empty input needs a prompt or a suffix to be answered")
            else:
                found.append(self._silence.expand(len(part), -1))
        return self.verbaliser.compute_class_logits(torch.cat(found))

    def answer_rows(
        self, lengths: np.ndarray, embed: Embed, batch_positions: int, callbacks: Callbacks
    ) -> np.ndarray:
        """Answer rows of any lengths, none of them padded.

        On a GPU a batch is set going before the one in front of it has ended.

        Args:
            lengths: Tokens of each row, shape (N,).
            embed: Makes the rows' input embeddings.
            batch_positions: Most positions in one forward pass, unless a single row has more.
            callbacks: Told about progress and trouble.

        Returns:
            Class logits, shape (N, K), float32.

        Raises:
            ModelError: A single row is too much for the device's memory.
        """
        logits = np.empty((len(lengths), len(self.verbaliser.labels)), dtype=np.float32)
        running: _Answers | None = None
        for batch in plan_batches(
            lengths, self.positions_around, batch_positions, self.forward_pass.mixes_lengths
        ):
            for begun in self._begin(batch, embed, callbacks):
                if running is not None:
                    logits[running.rows] = running.wait()
                    callbacks.advance(len(running.rows))
                running = begun
        if running is not None:
            logits[running.rows] = running.wait()
            callbacks.advance(len(running.rows))
        return logits

    def look_up(self, tokens: np.ndarray) -> torch.Tensor:
        """Return the embeddings of token ids (B, T), shape (B, T, d_T)."""
        return self.table[send(tokens.astype(np.int64), self.device)]

    @torch.inference_mode()
    def average_next_token(self, ids: torch.Tensor) -> torch.Tensor:
        """Average the model's own next-token distribution over contexts behind the prompt.

        Args:
            ids: Token ids of the contexts, shape (B, T).

        Returns:
            Probabilities, shape (V,), float64, on the CPU.

        Raises:
            ModelError: The model's logits are NaN or infinite.
        """
        with self.suspend():
            total = torch.zeros(len(self.table), dtype=torch.float64)
            prefix = self._look_up(self.prefix_ids)
            for row in ids:  # one at a time: (T, V) logits are the largest tensor of all
                inputs = torch.cat([prefix, self.table[row.to(self.device)][None]], dim=1)
                output = self.model(inputs_embeds=inputs, use_cache=False)
                logits = output.logits[0, prefix.shape[1] - 1 : -1].float()
                total += logits.softmax(dim=-1).double().mean(dim=0).cpu()[: len(total)]
        if not total.isfinite().all():
            raise ModelError("the model's logits are NaN or infinite: its weights are damaged")
        return total / total.sum()

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Have the model as it was loaded for a while, its whole output layer included."""
        small = self.model.get_output_embeddings()
        self.model.set_output_embeddings(self._full_head)
        try:
            with self.forward_pass.suspend():
                yield
        finally:
            self.model.set_output_embeddings(small)

    def _begin(self, batch: Batch, embed: Embed, callbacks: Callbacks) -> Iterator[_Answers]:
        """Set a batch going, in parts if the device cannot hold it at once."""
        positions = sum(
            len(rows) * (length + self.positions_around) for rows, length in batch.groups
        )
        most = self._most_positions
        if most is None or positions <= most or len(batch.rows) == 1:
            try:
                yield _Answers(
                    batch.rows, self.answer_groups([embed(*group) for group in batch.groups])
                )
                return
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch.rows) == 1:
                    raise ModelError(
                        f"a single row of {positions} positions is too much for the memory of "
                        f"{self.device}; use a smaller model, --quantise, or a shorter max_length"
                    ) from error
            self._most_positions = positions // 2
            callbacks.warn(
                f"{self.device} has no memory for {positions:,} positions at once; going on with "
                f"at most {self._most_positions:,} (other rounding in the last bits, no other rows)"
            )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        for half in batch.halve():
            yield from self._begin(half, embed, callbacks)

    @torch.inference_mode()
    def _choose_pass(self, prefix: torch.Tensor, longest: int) -> None:
        # What is said to no input at all, which no way but the full pass can be asked.
        bare = torch.cat([prefix, self._suffix], dim=1)
        self._silence = FullPass(self.model, bare[:, :0]).run([bare]) if bare.shape[1] else None
        self.forward_pass, self.fallbacks = choose_pass(
            self.model, prefix, self._suffix, self.table, longest
        )

    def _look_up(self, ids: Sequence[int]) -> torch.Tensor:
        return self.table[list(ids)].unsqueeze(0)

    def _check_length(self, task: Task) -> None:
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        needed = len(self.prefix_ids) + task.max_length + len(self.suffix_ids)
        if longest is not None and needed > longest:
            room = longest - len(self.prefix_ids) - len(self.suffix_ids)
            raise ModelError(
                f"task {task.name}: prompt, suffix and an input of {task.max_length} tokens are "
                f"{needed} positions, the model has {longest}; set max_length to at most {room}"
            )


class WordHead(nn.Module):
    """The output layer's rows of the label words, in float32 whatever the model computes in.

    What a family does to logits behind its output layer still runs.

    Raises:
        ModelError: The output layer is not linear.
    """

    def __init__(self, head: nn.Module | None, token_ids: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(head, nn.Linear):
            raise ModelError(f"the model's output layer is {type(head).__name__}, must be linear")
        rows = torch.tensor(list(token_ids), device=head.weight.device)
        self.out_features = len(token_ids)
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("weight", head.weight.detach()[rows].float())
        bias = None if head.bias is None else head.bias.detach()[rows].float()
        self.register_buffer("bias", bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the words' logits, shape (..., words), float32, of states (..., d_T)."""
        return nn.functional.linear(hidden.to(self.weight.device).float(), self.weight, self.bias)


class _Answers:
    """Class logits on their way from the device."""

    def __init__(self, rows: np.ndarray, logits: torch.Tensor) -> None:
        self.rows, self._ready = rows, None
        if logits.is_cuda:
            # Copied behind this batch and in front of the next, or waiting would be for both.
            self._logits = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            self._logits.copy_(logits, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record(torch.cuda.current_stream(logits.device))
        else:
            self._logits = logits

    def wait(self) -> np.ndarray:
        """Return the logits, shape (B, K), once they are there."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._logits.numpy()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left; a CPU's has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
