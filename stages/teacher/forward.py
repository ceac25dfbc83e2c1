"""The ways to run a language model behind a prompt, and its output layer for the label words.

Which of them is right for a model is tried in :mod:`stages.teacher.capabilities`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.errors import ModelError
from stages.teacher.attention import NotPackableError, PackedAttention, Rows
from stages.teacher.branches import Branches, keep_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ROWS = 2**15
"""Rows of one length in one call of an attention kernel; CUDA's grids end at 65,535."""


class ForwardPass:
    """A way to run the model on rows behind the prompt."""

    model: PreTrainedModel
    description: str
    name: str
    """What the log and a cache's manifest call it."""
    mixes_lengths = False
    """Whether one call may take rows of several lengths."""

    def enter(self) -> None:
        """Have the model run in this way from now on."""

    def leave(self) -> None:
        """Have the model as it was loaded."""

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the label words' logits at the rows' last positions, shape (all B, words).

        The inputs are for each length the rows' embeddings, suffix included, (B, T ≥ 1, d_T).
        """
        return torch.cat([self._run_alike(rows) for rows in inputs])

    def run_branches(
        self, inputs: Sequence[torch.Tensor], branches: Branches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the logits at the rows' ends, then at the nodes of a tree behind each row.

        Returns them, shape (all B, 1 + A, words), and what the output layer was run on, shape
        (all B, 1 + A, d_T).
        """
        paths = [branches.embeddings[list(way)] for way in ((), *branches.ways)]
        with keep_states(self.model) as states:
            logits = self.run(
                [
                    torch.cat([rows, path.expand(len(rows), -1, -1)], dim=1)
                    for path in paths
                    for rows in inputs
                ]
            )
        both = logits, torch.cat([state[:, -1] for state in states])
        found, seen = (part.unflatten(0, (len(paths), -1)).transpose(0, 1) for part in both)
        return found, seen

    def _run_alike(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape (B, words), of rows of one length, shape (B, T, d_T)."""
        raise NotImplementedError


class FullPass(ForwardPass):
    """Prompt and input together, as anyone would: what the other ways are measured against."""

    def __init__(self, model: PreTrainedModel, prefix: torch.Tensor) -> None:
        self.model, self.prefix, self.name = model, prefix, "plain"
        prompt = "the prompt is run with every row, " if prefix.shape[1] else ""
        self.description = f"{prompt}rows of one length share a batch"

    def _run_alike(self, rows: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([self.prefix.expand(len(rows), -1, -1), rows], dim=1)
        output = self.model(inputs_embeds=whole, use_cache=False, logits_to_keep=1)
        return output.logits[:, -1]  # type: ignore[no-any-return]


class PrefixPass(ForwardPass):
    """The prompt's keys and values are computed once, and copied for every row."""

    description = "the prompt is run once, its keys and values are copied for every row"
    name = "copied"

    def __init__(self, model: PreTrainedModel, prefix: torch.Tensor) -> None:
        from transformers import DynamicCache

        output = model(inputs_embeds=prefix, use_cache=True, logits_to_keep=1)
        past = getattr(output, "past_key_values", None)
        if not isinstance(past, DynamicCache):
            raise ModelError(f"{type(model).__name__} keeps no keys and values that can be reused")
        self.model, self._past = model, past

    def _run_alike(self, rows: torch.Tensor) -> torch.Tensor:
        # Every call appends to the cache it is given, so each gets a copy.
        past: Any = copy.deepcopy(self._past)
        past.batch_repeat_interleave(len(rows))
        output = self.model(inputs_embeds=rows, past_key_values=past, logits_to_keep=1)
        return output.logits[:, -1]  # type: ignore[no-any-return]


class PackedPass(ForwardPass):
    """Rows of all lengths side by side in one sequence, the prompt's keys and values shared.

    Replaces the model's attention; :meth:`leave` puts it back.  ``last`` is the last layer, if it
    is to be run for the rows' last positions only, which ``trims`` then says.
    """

    mixes_lengths = True

    def __init__(
        self, model: PreTrainedModel, prefix: torch.Tensor, last: nn.Module | None
    ) -> None:
        self.model, self._known, self._last = model, prefix.shape[1], last
        self.trims = last is not None
        self._attention = PackedAttention()
        self._before = model.config._attn_implementation
        self._hook: Any = None
        try:
            tuned = [x for x in model.modules() if getattr(x, "attn_temperature_tuning", False)]
            if not all(getattr(x, "use_rope", False) for x in tuned):  # as in Llama 4
                raise NotPackableError("its attention counts positions over the whole batch")
            self._attention.install(model)
            if self._known:
                model(inputs_embeds=prefix, use_cache=False, logits_to_keep=1)
        except Exception:
            self.leave()
            raise
        self.enter()
        prompt = "the prompt is run once, " if self._known else ""
        end = ", the last layer runs for their last positions only" if self.trims else ""
        self.description = f"{prompt}rows of all lengths share a batch without padding{end}"
        self.name = "trimmed" if self.trims else "packed"

    def enter(self) -> None:
        """See :class:`ForwardPass`."""
        self._attention.install(self.model)
        if self._last is not None and self._hook is None:
            self._hook = self._last.register_forward_pre_hook(
                self._attention.skip_to_ends, with_kwargs=True
            )

    def leave(self) -> None:
        """See :class:`ForwardPass`."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._attention.expect(None)
        self.model.set_attn_implementation(self._before)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See :class:`ForwardPass`."""
        return self._read(inputs, None)[0]

    def run_branches(
        self, inputs: Sequence[torch.Tensor], branches: Branches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`ForwardPass`; the rows are run once."""
        count = sum(map(len, inputs))
        found, seen = (
            torch.cat([part[:count, None], part[count:].unflatten(0, (count, -1))], dim=1)
            for part in self._read(inputs, branches)
        )
        return found, seen

    def _read(
        self, inputs: Sequence[torch.Tensor], branches: Branches | None
    ) -> list[torch.Tensor]:
        """Return the logits at all ends, then all nodes that are read, and what is behind them."""
        groups = tuple(
            (min(MOST_ROWS, len(part) - begin), part.shape[1])
            for part in inputs
            for begin in range(0, len(part), MOST_ROWS)
        )
        rows, positions = describe_rows(groups, self._known, inputs[0].device, branches)
        self._attention.expect(rows)
        head: Any = self.model.get_output_embeddings()
        packed = [part.flatten(0, 1) for part in inputs]
        if branches is not None:
            packed.append(branches.embeddings.repeat(len(rows.ends), 1))
        with keep_states(self.model) as states:
            output = self.model(
                inputs_embeds=torch.cat(packed).unsqueeze(0),
                position_ids=positions,
                use_cache=False,
                logits_to_keep=0 if self.trims else rows.read.to(head.weight.device),
            )
        # A family without logits_to_keep gives them for every position.
        return [
            part if len(part) == len(rows.read) else part[rows.read.to(part.device)]
            for part in (output.logits[0], states[-1][0])
        ]


def describe_rows(
    groups: tuple[tuple[int, int], ...],
    known: int,
    device: torch.device,
    branches: Branches | None = None,
) -> tuple[Rows, torch.Tensor]:
    """Lay rows out in one sequence, behind ``known`` positions that all of them share.

    Behind all of them come their branches.  Also returns the number of each position in its row,
    shape (1, N).
    """
    # Made where they are used: copying them there would wait for what a GPU is doing.
    positions, ends, begin = [], [], 0
    for count, length in groups:
        positions.append(torch.arange(known, known + length, device=device).repeat(count))
        ends.append(torch.arange(1, count + 1, device=device) * length + (begin - 1))
        begin += count * length
    if branches is not None:
        depths = branches.sees.sum(dim=1) + (known - 1)
        positions += [(depths + length).repeat(count) for count, length in groups]
    return Rows(groups, torch.cat(ends), branches), torch.cat(positions)[None]


class WordHead(nn.Module):
    """The output layer's rows of the label words, in float32 whatever the model computes in.

    What a family does to logits behind its output layer still runs.
    """

    def __init__(self, head: nn.Module | None, token_ids: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(head, nn.Linear):
            raise ModelError(f"the model's output layer is {type(head).__name__}, must be linear")
        rows = torch.tensor(list(token_ids), device=head.weight.device)
        self.out_features = len(token_ids)
        self.weight: torch.Tensor
        self.register_buffer("weight", head.weight.detach()[rows].float())
        bias = None if head.bias is None else head.bias.detach()[rows].float()
        # Some families keep it beside the layer as well, and as a parameter.
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the words' logits, shape (..., words), float32, of states (..., d_T)."""
        return nn.functional.linear(hidden.to(self.weight.device).float(), self.weight, self.bias)
