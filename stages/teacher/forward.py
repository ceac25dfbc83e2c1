"""The ways to run a language model behind a prompt; the best that gives the right answers is used.

A family may keep anything in its attention or its cache, so no way is believed: each is tried on a
few rows when the model is loaded, against a plain forward pass over prompt, input and suffix.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from stages.errors import ModelError
from stages.teacher.attention import NAME, PackedAttention, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""How far two ways' logits may lie apart by rounding alone."""

MOST_ROWS = 2**15
"""Rows of one length in one call of an attention kernel; CUDA's grids end at 65,535."""


class ForwardPass(Protocol):
    """A way to run the model on rows behind the prompt."""

    @property
    def mixes_lengths(self) -> bool:
        """Whether one call may take rows of several lengths."""
        ...

    @property
    def words(self) -> str:
        """What is done, for the log."""
        ...

    def suspend(self) -> AbstractContextManager[None]:
        """Have the model as it was loaded, for other work."""
        ...

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the label words' logits at the rows' last positions.

        Args:
            inputs: For each length the rows' embeddings, suffix included, shape (B, T, d_T), T at
                least 1.

        Returns:
            Logits, shape (all B, words).
        """
        ...


@dataclass(frozen=True)
class FullPass:
    """Prompt and input together, as anyone would: what the other ways are measured against."""

    model: PreTrainedModel
    prefix: torch.Tensor
    mixes_lengths: bool = False

    @property
    def words(self) -> str:
        """What is done, for the log."""
        prompt = "the prompt is run with every row, " if self.prefix.shape[1] else ""
        return f"{prompt}rows of one length share a batch"

    def suspend(self) -> AbstractContextManager[None]:
        """Do nothing: the model is as it was loaded."""
        return nullcontext()

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See :class:`ForwardPass`."""
        found = []
        for rows in inputs:
            whole = torch.cat([self.prefix.expand(len(rows), -1, -1), rows], dim=1)
            output = self.model(inputs_embeds=whole, use_cache=False, logits_to_keep=1)
            found.append(output.logits[:, -1])
        return torch.cat(found)


class PrefixPass:
    """The prompt's keys and values are computed once, and copied for every row."""

    mixes_lengths = False
    words = "the prompt is run once, its keys and values are copied for every row"

    def __init__(self, model: PreTrainedModel, prefix: torch.Tensor) -> None:
        from transformers import DynamicCache

        output = model(inputs_embeds=prefix, use_cache=True, logits_to_keep=1)
        past = getattr(output, "past_key_values", None)
        if not isinstance(past, DynamicCache):
            raise ModelError(f"{type(model).__name__} keeps no keys and values that can be reused")
        self._model, self._past = model, past

    def suspend(self) -> AbstractContextManager[None]:
        """Do nothing: the model is as it was loaded."""
        return nullcontext()

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See :class:`ForwardPass`."""
        found = []
        for rows in inputs:
            # Every call appends to the cache it is given, so each gets a copy of its own.
            past: Any = copy.deepcopy(self._past)
            past.batch_repeat_interleave(len(rows))
            output = self._model(inputs_embeds=rows, past_key_values=past, logits_to_keep=1)
            found.append(output.logits[:, -1])
        return torch.cat(found)


class PackedPass:
    """Rows of all lengths side by side in one sequence, the prompt's keys and values shared.

    Args:
        model: The model, whose attention is replaced; :meth:`undo` puts it back.
        prefix: The prompt's embeddings, shape (1, P, d_T), P may be 0.
        last: The last layer, if it is to be run for the rows' last positions only.
    """

    mixes_lengths = True

    def __init__(
        self, model: PreTrainedModel, prefix: torch.Tensor, last: nn.Module | None
    ) -> None:
        self._model, self._known = model, prefix.shape[1]
        self._attention = PackedAttention()
        self._before = model.config._attn_implementation
        self._hook: Any = None
        try:
            self._attention.install(model)
            if self._known:
                self._attention.record_prefix()
                model(inputs_embeds=prefix, use_cache=False, logits_to_keep=1)
        except Exception:
            self.undo()
            raise
        if last is not None:
            self._hook = last.register_forward_pre_hook(
                self._attention.skip_to_ends, with_kwargs=True
            )

    @property
    def trims(self) -> bool:
        """Whether the last layer is run for the rows' last positions only."""
        return self._hook is not None

    @property
    def words(self) -> str:
        """What is done, for the log."""
        prompt = "the prompt is run once, " if self._known else ""
        last = ", the last layer runs for their last positions only" if self.trims else ""
        return f"{prompt}rows of all lengths share a batch without padding{last}"

    def undo(self) -> None:
        """Give the model its own attention back."""
        if self._hook is not None:
            self._hook.remove()
        self._model.set_attn_implementation(self._before)

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Give the model its own attention back for a while."""
        self._attention.rest()
        self._model.set_attn_implementation(self._before)
        try:
            yield
        finally:
            self._model.set_attn_implementation(NAME)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See :class:`ForwardPass`."""
        groups = tuple(
            (min(MOST_ROWS, len(part) - begin), part.shape[1])
            for part in inputs
            for begin in range(0, len(part), MOST_ROWS)
        )
        rows, positions = describe_rows(groups, self._known, inputs[0].device)
        self._attention.expect(rows)
        head: Any = self._model.get_output_embeddings()
        packed = torch.cat([part.flatten(0, 1) for part in inputs]).unsqueeze(0)
        output = self._model(
            inputs_embeds=packed,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=0 if self.trims else rows.ends.to(head.weight.device),
        )
        logits: torch.Tensor = output.logits[0]
        # A family without logits_to_keep gives them for every position.
        return logits if len(logits) == len(rows.ends) else logits[rows.ends.to(logits.device)]


def describe_rows(
    groups: tuple[tuple[int, int], ...], known: int, device: torch.device
) -> tuple[Rows, torch.Tensor]:
    """Lay rows out in one sequence.

    Args:
        groups: Number of rows and their length, for each length.
        known: Positions in front of every row.
        device: Where the tensors are to lie.

    Returns:
        The rows, and the number of each position in its row, shape (1, N).
    """
    # Made where they are used: copying them there would wait for what a GPU is doing.
    positions, ends, begin = [], [], 0
    for count, length in groups:
        positions.append(torch.arange(known, known + length, device=device).repeat(count))
        ends.append(torch.arange(1, count + 1, device=device) * length + (begin - 1))
        begin += count * length
    return Rows(groups, torch.cat(ends)), torch.cat(positions)[None]


def choose_pass(
    model: PreTrainedModel,
    prefix: torch.Tensor,
    suffix: torch.Tensor,
    table: torch.Tensor,
    longest: int,
) -> tuple[ForwardPass, list[str]]:
    """Choose the best way that answers as a plain forward pass does.

    Args:
        model: The model, its output layer cut down to the label words.
        prefix: The prompt's embeddings, shape (1, P, d_T).
        suffix: The embeddings behind every input, shape (1, S, d_T).
        table: Embeddings of all tokens, shape (V, d_T), from which rows to try are taken.
        longest: Tokens of the longest input.

    Returns:
        The way, and why each better one cannot be used.
    """
    probe = []
    # Not of the smallest common multiple, so that no reshaping of one into the other fits.
    for count, length in ((2, 1), (3, 3), (1, longest)):
        ids = torch.arange(count * length, device=table.device) % len(table)
        rows = table[ids].view(count, length, -1)
        probe.append(torch.cat([rows, suffix.expand(count, -1, -1)], dim=1))
    plain = FullPass(model, prefix)
    wanted = plain.run(probe)
    reasons: list[str] = []
    for name, make in (
        (
            "running the last layer for last positions only",
            lambda: PackedPass(model, prefix, find_layers(model)[-1]),
        ),
        ("packing rows side by side", lambda: PackedPass(model, prefix, None)),
        ("reusing the prompt's keys and values", lambda: PrefixPass(model, prefix)),
    ):
        if not prefix.shape[1] and "prompt" in name:
            continue
        way: ForwardPass | None = None
        try:
            way = make()
            apart = (way.run(probe).float() - wanted.float()).abs().max().item()
            fault = f"logits are off by {apart:.2g}" if not apart <= TOLERANCE[table.dtype] else ""
            if not fault and isinstance(way, PackedPass) and not keeps_rows_apart(way, probe):
                fault = "rows are not kept apart"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family's code does with what it does not expect
            fault = " ".join(str(error).split())[:200] or type(error).__name__
        if way is not None and not fault:
            return way, reasons
        if isinstance(way, PackedPass):
            way.undo()
        reasons.append(f"{name}: {fault}")
    return plain, reasons


def keeps_rows_apart(way: ForwardPass, inputs: Sequence[torch.Tensor]) -> bool:
    """Whether no row's answer depends on the rows beside it.

    A row of NaN is put at either end: whatever a model mixes between positions beside attention (a
    state space, a convolution, a mean), however little, becomes NaN too.  No rounding hides it.
    """
    rows = sum(len(part) for part in inputs)
    for spoilt in (0, rows - 1):
        marked = [part.clone() for part in inputs]
        marked[0 if spoilt == 0 else -1][0 if spoilt == 0 else -1] = torch.nan
        others = [row for row in range(rows) if row != spoilt]
        if not way.run(marked)[others].isfinite().all():
            return False
    return True


def find_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a decoder in their order.

    Raises:
        ModelError: There is no list of as many modules as the model has layers.
    """
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of its {count} layers")
    return list(lists[0])
