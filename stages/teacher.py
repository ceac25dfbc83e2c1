"""The teacher function g: input embeddings to class logits, through a prompted causal LM.

The prompt's embeddings are put around the input's, the language model runs once, and only the
label words' logits are computed, at the last position (paper, Eq. 9 and section 4.1).  What the
prompt contributes to attention is the same for every input, so it is computed once and reused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stages.errors import ModelError
from stages.language_model import encode_prompt
from stages.verbaliser import build_verbaliser

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.task import Task

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""How far logits through the reused prefix may lie from a plain forward pass, by rounding alone."""


class Teacher:
    """A causal language model behind one task's prompt.

    Attributes:
        model: The model; its output layer is cut down to the label words.
        verbaliser: The label words.
        prefix_ids: Pieces in front of the input, BOS first where the tokenizer has one.
        suffix_ids: Pieces behind the input.
        table: The embedding of every token id, shape (V, d_T), in the model's number format.
        prefix_reused: Whether the prefix's keys and values are reused, and if not
        full_pass_reason: why.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task
    ) -> None:
        self.model = model
        self.verbaliser = build_verbaliser(task, tokenizer)
        self.prefix_ids = encode_prompt(task.prompt, tokenizer)
        self.suffix_ids = (
            list(tokenizer(task.suffix, add_special_tokens=False)["input_ids"])
            if task.suffix
            else []
        )
        self.device = model.device
        self._check_length(task)
        embed = model.get_input_embeddings()
        # Through the module, not its weight: some families scale inside it.
        with torch.inference_mode():
            vocabulary = torch.arange(embed.weight.shape[0], device=self.device)
            self.table = torch.cat([embed(part) for part in torch.split(vocabulary, 4096)]).clone()
        self._full_head = model.get_output_embeddings()
        model.set_output_embeddings(_cut_head(self._full_head, self.verbaliser.token_ids))
        self._prefix_cache: Any = None
        self.full_pass_reason = self._prepare_prefix()

    @property
    def prefix_reused(self) -> bool:
        """Whether the prefix's keys and values are reused by every batch."""
        return not self.full_pass_reason

    @torch.inference_mode()
    def compute_class_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Answer a batch of inputs of one length.

        Args:
            embeddings: Input embeddings, shape (B, T, d_T), T may be 0.

        Returns:
            Class logits, shape (B, K), float32, on the model's device.
        """
        inputs = torch.cat(
            [embeddings.to(self.table), self._repeat(self.suffix_ids, len(embeddings))], dim=1
        )
        if not self.prefix_reused or inputs.shape[1] == 0:
            return self._run_full(inputs)
        return self._run_behind_prefix(inputs)

    def answer_rows(
        self,
        lengths: np.ndarray,
        embed: Callable[[np.ndarray, int], torch.Tensor],
        batch_positions: int,
        advance: Callable[[int], None],
    ) -> np.ndarray:
        """Answer rows of any lengths; those of one length go together, so nothing is padded.

        Args:
            lengths: Pieces of each row, shape (N,).
            embed: Takes the indices (B,) of rows and their one length T, returns their input
                embeddings, shape (B, T, d_T).
            batch_positions: Most positions in one forward pass, unless a single row has more.
            advance: Called after each pass with the number of its rows; may raise to stop.

        Returns:
            Class logits, shape (N, K), float32.
        """
        logits = np.empty((len(lengths), len(self.verbaliser.labels)), dtype=np.float32)
        for length in map(int, np.unique(lengths)):
            alike = np.flatnonzero(lengths == length)
            step = max(1, batch_positions // (length + len(self.prefix_ids + self.suffix_ids)))
            for begin in range(0, len(alike), step):
                part = alike[begin : begin + step]
                logits[part] = self.compute_class_logits(embed(part, length)).cpu().numpy()
                advance(len(part))
        return logits

    def look_up(self, tokens: np.ndarray) -> torch.Tensor:
        """Return the embeddings of token ids (B, T), shape (B, T, d_T)."""
        return self.table[torch.from_numpy(tokens.astype(np.int64)).to(self.device)]

    @torch.inference_mode()
    def average_next_token(self, ids: torch.Tensor) -> torch.Tensor:
        """Average the model's own next-token distribution over contexts behind the prompt.

        Args:
            ids: Token ids of the contexts, shape (B, T).

        Returns:
            Probabilities, shape (V,), float64, on the CPU.
        """
        small = self.model.get_output_embeddings()
        self.model.set_output_embeddings(self._full_head)
        try:
            total = torch.zeros(len(self.table), dtype=torch.float64)
            for row in ids:  # one at a time: (T, V) logits are the largest tensor of all
                prefix = self._repeat(self.prefix_ids, 1)
                inputs = torch.cat([prefix, self.table[row.to(self.device)][None]], dim=1)
                output = self.model(inputs_embeds=inputs, use_cache=False)
                logits = output.logits[0, prefix.shape[1] - 1 : -1].float()
                total += logits.softmax(dim=-1).double().mean(dim=0).cpu()[: len(total)]
        finally:
            self.model.set_output_embeddings(small)
        return total / total.sum()

    def _run_full(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat([self._repeat(self.prefix_ids, len(inputs)), inputs], dim=1)
        output = self.model(inputs_embeds=inputs, use_cache=False, logits_to_keep=1)
        return self.verbaliser.compute_class_logits(output.logits[:, -1])

    def _run_behind_prefix(self, inputs: torch.Tensor) -> torch.Tensor:
        # Every call appends to the cache it is given, so each batch gets a copy of its own.
        past = copy.deepcopy(self._prefix_cache)
        past.batch_repeat_interleave(len(inputs))
        output = self.model(inputs_embeds=inputs, past_key_values=past, logits_to_keep=1)
        return self.verbaliser.compute_class_logits(output.logits[:, -1])

    @torch.inference_mode()
    def _prepare_prefix(self) -> str:
        """Run the prefix once; return why it cannot be reused, or an empty string."""
        from transformers import DynamicCache

        if not self.prefix_ids:
            return "the prompt has no pieces"
        output = self.model(
            inputs_embeds=self._repeat(self.prefix_ids, 1), use_cache=True, logits_to_keep=1
        )
        past = getattr(output, "past_key_values", None)
        if not isinstance(past, DynamicCache):
            return f"{type(self.model).__name__} keeps no keys and values that can be reused"
        self._prefix_cache = past
        # A family whose cache behaves otherwise would give wrong answers silently: try it.
        rows = self.table[: 2 * 3].reshape(2, 3, -1)
        probe = torch.cat([rows, self._repeat(self.suffix_ids, 2)], dim=1)
        apart = (self._run_behind_prefix(probe) - self._run_full(probe)).abs().max().item()
        if not apart <= TOLERANCE[self.table.dtype]:
            self._prefix_cache = None
            return f"answers through the reused prefix are off by {apart:.2g} in the logits"
        return ""

    def _repeat(self, ids: list[int], rows: int) -> torch.Tensor:
        return self.table[ids].unsqueeze(0).expand(rows, -1, -1)

    def _check_length(self, task: Task) -> None:
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        needed = len(self.prefix_ids) + task.max_length + len(self.suffix_ids)
        if longest is not None and needed > longest:
            room = longest - len(self.prefix_ids) - len(self.suffix_ids)
            raise ModelError(
                f"task {task.name}: prompt, suffix and an input of {task.max_length} pieces are "
                f"{needed} positions, the model has {longest}; set max_length to at most {room}"
            )


def _cut_head(head: nn.Module | None, token_ids: tuple[int, ...]) -> nn.Linear:
    """Keep the output layer's rows of the label words; what a family does to logits still runs."""
    if not isinstance(head, nn.Linear):
        raise ModelError(f"the model's output layer is {type(head).__name__}, must be linear")
    rows = torch.tensor(token_ids, device=head.weight.device)
    cut = nn.Linear(
        head.in_features,
        len(token_ids),
        bias=head.bias is not None,
        device=head.weight.device,
        dtype=head.weight.dtype,
    )
    with torch.no_grad():
        cut.weight.copy_(head.weight[rows])
        if head.bias is not None:
            cut.bias.copy_(head.bias[rows])
    return cut.requires_grad_(False)
