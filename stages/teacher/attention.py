"""Attention of many rows side by side behind one prompt prefix, without padding or copies.

The rows of a batch stand one after another in a single sequence, whatever their lengths, so that
every matrix product of the model is one large one, and only attention keeps them apart.  A row's
positions attend to the prefix, whose keys and values are there once for all, and to the row itself;
the two results are merged by their logarithmic sums of exponentials: what one softmax over both
would give, up to rounding.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from stages.teacher.branches import Branches, cut_rows, repeat_heads

NAME = "packed"
"""What transformers knows this attention as."""

QUERIES_AT_ONCE = 512
"""Positions whose scores are held at once where no fused kernel can be had."""

_NO_EFFECT = frozenset({"position_ids", "cache_position", "use_cache", "cu_seq_lens_q"})


class NotPackableError(Exception):
    """A family's attention does something that this one does not."""


class _Captured(Exception):  # noqa: N818 - the way out of a layer of which no more is needed
    """Carries the keys and values of the last layer out of it, as its arguments."""


@dataclass(frozen=True)
class Rows:
    """How the positions of a batch belong to rows."""

    groups: tuple[tuple[int, int], ...]  # number of rows and their length, in order
    ends: torch.Tensor  # index of each row's last position, shape (R,)
    branches: Branches | None = None  # that every row has, behind all rows

    @cached_property
    def read(self) -> torch.Tensor:
        """Index of each position that is read: the rows' ends, then nodes of their branches."""
        if self.branches is None:
            return self.ends
        nodes, count = len(self.branches.sees), len(self.ends)
        firsts = torch.arange(count, device=self.ends.device) * nodes + self.positions
        read = (firsts[:, None] + self.branches.read - count * nodes).flatten()
        return torch.cat([self.ends, read])

    @property
    def positions(self) -> int:
        """How many positions there are."""
        nodes = 0 if self.branches is None else len(self.branches.sees)
        return sum(count * (length + nodes) for count, length in self.groups)


class PackedAttention:
    """The attention of every layer of one model, and what it needs to know besides the tensors."""

    def __init__(self) -> None:
        # Keys and values of the prefix by layer, each of shape (1, H, P, D).
        self.prefix: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rows: Rows | None = None
        self._capturing = False
        self._last: tuple[Any, ...] | None = None

    def install(self, model: nn.Module) -> None:
        """Make this the attention of a model of transformers."""
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, _attend)
        model.set_attn_implementation(NAME)  # type: ignore[operator]
        if model.config._attn_implementation != NAME:  # type: ignore[union-attr]
            raise NotPackableError(f"the attention of {type(model).__name__} cannot be replaced")
        for module in model.modules():
            if hasattr(module, "layer_idx"):
                # Past nn.Module's own bookkeeping: this is no part of the model.
                object.__setattr__(module, "packed_attention", self)

    def expect(self, rows: Rows | None) -> None:
        """Say how positions of what is run next belong to rows; None: it is the prefix itself."""
        self._rows, self._last = rows, None

    def skip_to_ends(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Cut a layer's arguments down to the positions that are read; a forward pre-hook.

        For the last layer: of all other positions nothing but keys and values is ever read, and
        those are taken from a first run of the layer that ends where attention would begin.
        """
        rows = self._rows
        if rows is None or len(rows.read) == rows.positions:
            return None
        self._capturing = True
        try:
            layer.forward(*args, **kwargs)
        except _Captured as found:
            self._last = found.args
        finally:
            self._capturing = False
        if self._last is None:
            raise NotPackableError("the last layer has no attention of its own")
        cut: tuple[Any, dict[str, Any]] = _take((args, kwargs), rows.read, rows.positions)
        return cut

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
        softcap: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Attend within rows and to the prefix.

        The query's shape is (1, H, N, D), or (1, H, R, D) in a layer cut down to what is read; key
        and value are (1, H or fewer, N, D), the result is (1, N or R, H, D).  ``scale`` is that
        of the scores, ``softcap`` their bound, ``window`` how far back a position sees.
        """
        if self._capturing:
            raise _Captured(key, value)
        if len(query) != 1:
            raise NotPackableError(f"attention is asked for {len(query)} sequences")
        if self._last is not None:
            key, value = self._last
        before = None if self._rows is None else self.prefix.get(layer)
        known = 0 if before is None else before[0].shape[2]
        groups = ((1, key.shape[2]),) if self._rows is None else self._rows.groups
        branches = None if self._rows is None else self._rows.branches
        longest = known + max(length for _, length in groups)
        longest += 0 if branches is None else max(map(len, branches.ways))
        if window is not None and longest > window:
            raise NotPackableError(
                f"its attention sees {window} positions back, prompt and input are up to {longest}"
            )
        heads, ends_only = query.shape[1], self._last is not None
        if self._rows is None:
            self.prefix[layer] = (repeat_heads(key, heads), repeat_heads(value, heads))
        outputs, sums = [], []
        asked = seen = 0
        for count, length in groups:
            each = 1 if ends_only else length
            part = cut_rows(query, asked, count, each)
            keys = repeat_heads(cut_rows(key, seen, count, length), heads)
            values = repeat_heads(cut_rows(value, seen, count, length), heads)
            output, total = attend(part, keys, values, not ends_only, scale, softcap)
            outputs.append(output.transpose(1, 2).reshape(1, count * each, heads, -1))
            sums.append(total.transpose(0, 1).reshape(1, heads, count * each))
            asked, seen = asked + count * each, seen + count * length
        if branches is not None:
            how = partial(attend, scale=scale, softcap=softcap)
            for output, total in branches.attend(how, query[:, :, asked:], key, value, groups):
                outputs.append(output.transpose(1, 2).flatten(0, 1)[None])
                sums.append(total.transpose(0, 1).flatten(1, 2)[None])
        if before is None:
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        own_sums = sums[0] if len(sums) == 1 else torch.cat(sums, dim=2)
        shared, shared_sums = attend(query, *before, False, scale, softcap)
        # exp(shared) / (exp(shared) + exp(own)), the prefix's share of one softmax over both.
        share = torch.sigmoid(shared_sums - own_sums).transpose(1, 2).unsqueeze(-1)
        merged, share, begin = shared.transpose(1, 2), share.to(query.dtype), 0
        for own in outputs:
            # In place, and in the model's number format: on a GPU, memory is what this waits for.
            cut = slice(begin, begin + own.shape[1])
            torch.lerp(own, merged[:, cut], share[:, cut], out=merged[:, cut])
            begin = cut.stop
        return merged


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    scale: float | None,
    softcap: float | None,
    sees: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend by the best kernel there is, and return the scores' logarithmic sums as well.

    torch's public attention keeps those sums to itself, so its kernels are called by name; whether
    they are right for a model is tried when it is loaded (:mod:`stages.teacher.capabilities`).
    Shapes: query (B, H, Q, D), key (B, H, K, D), value (B, H, K, D_v); what is returned is
    (B, H, Q, D_v) and (B, H, Q), float32.  Where ``causal``, query i sees keys 0 to i only;
    where ``sees``, shape (Q, K), is given, those for which it is true.
    """
    kernels = torch.ops.aten
    width, device = query.shape[-1], query.device
    if softcap is None and value.shape[-1] == width and sees is None:
        if device.type == "cpu":
            return kernels._scaled_dot_product_flash_attention_for_cpu(  # type: ignore[no-any-return]
                query, key, value, 0.0, causal, scale=scale
            )
        half = query.dtype in (torch.float16, torch.bfloat16)
        # torch's flash attention is written for Ampere and later.
        ampere = query.is_cuda and torch.cuda.get_device_properties(device).major >= 8
        if half and width % 8 == 0 and width <= 256 and ampere:
            found = kernels._scaled_dot_product_flash_attention(
                query, key, value, 0.0, causal, False, scale=scale
            )
            return found[0], found[1]
        if query.is_cuda and width % 8 == 0:
            found = kernels._scaled_dot_product_efficient_attention(
                query, key, value, None, True, 0.0, causal, scale=scale
            )
            return found[0], found[1][..., : query.shape[2]]
    if causal:
        sees = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=device).tril()
    outputs, sums = [], []
    scale = width**-0.5 if scale is None else scale
    for begin in range(0, query.shape[2], QUERIES_AT_ONCE):
        part = query[:, :, begin : begin + QUERIES_AT_ONCE]
        if part.dtype == torch.float16:  # in which products before the scale can overflow
            part, key = part.float(), key.float()
        scores = torch.matmul(part, key.transpose(-1, -2)).float() * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if sees is not None:
            scores = scores.masked_fill(~sees[begin : begin + part.shape[2]], float("-inf"))
        outputs.append(torch.matmul(scores.softmax(-1).to(value.dtype), value))
        sums.append(scores.logsumexp(-1))
    return torch.cat(outputs, dim=2), torch.cat(sums, dim=2)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls; the arguments are those of its attention functions."""
    if (attention := getattr(module, "packed_attention", None)) is None:
        raise NotPackableError(f"{type(module).__name__} has no number of its layer")
    odd = [name for name, x in others.items() if isinstance(x, torch.Tensor) or name == "is_causal"]
    odd = [name for name in odd if name not in _NO_EFFECT and others[name] is not True]
    if attention_mask is not None or odd:
        raise NotPackableError(f"its attention takes {', '.join(odd) or 'a mask'}")
    output: torch.Tensor = attention.attend(
        module.layer_idx, query, key, value, scaling, softcap, sliding_window
    )
    return output, None


def _take(value: Any, ends: torch.Tensor, count: int) -> Any:
    """Cut everything that has an entry for each of ``count`` positions down to the ends."""
    if isinstance(value, torch.Tensor):
        if value.ndim >= 2 and value.shape[:2] == (1, count):
            return value[:, ends.to(value.device)]
        return value[ends.to(value.device)] if value.shape == (count,) else value
    if isinstance(value, tuple | list):
        return type(value)(_take(part, ends, count) for part in value)
    if isinstance(value, dict):
        return {name: _take(part, ends, count) for name, part in value.items()}
    return value
