"""Attention that also returns its scores' logarithmic sums, by the best kernel there is.

torch's public attention keeps those sums to itself, so its kernels are called by name; which of
them are right for a model is tried when the model is loaded (:mod:`stages.teacher.forward`).
"""

from __future__ import annotations

import torch

QUERIES_AT_ONCE = 512
"""Positions whose scores are held at once where no fused kernel can be had."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    scale: float | None,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend, and return the logarithmic sums of the scores' exponentials as well.

    Args:
        query: Shape (B, H, Q, D).
        key: Shape (B, H, K, D).
        value: Shape (B, H, K, D_v).
        causal: Whether query i sees keys 0 to i only; Q and K are then the same.
        scale: Of the scores.
        softcap: Bound of the scores.

    Returns:
        Shape (B, H, Q, D_v), and the sums, shape (B, H, Q), float32.
    """
    kernels = torch.ops.aten
    width = query.shape[-1]
    if softcap is None and value.shape[-1] == width:
        if query.device.type == "cpu":
            return kernels._scaled_dot_product_flash_attention_for_cpu(  # type: ignore[no-any-return]
                query, key, value, 0.0, causal, scale=scale
            )
        half = query.dtype in (torch.float16, torch.bfloat16)
        if half and width % 8 == 0 and width <= 256 and _is_ampere(query.device):
            found = kernels._scaled_dot_product_flash_attention(
                query, key, value, 0.0, causal, False, scale=scale
            )
            return found[0], found[1]
        if query.is_cuda and width % 8 == 0:
            found = kernels._scaled_dot_product_efficient_attention(
                query, key, value, None, True, 0.0, causal, scale=scale
            )
            return found[0], found[1][..., : query.shape[2]]
    parts = [
        _attend_plainly(part, key, value, begin if causal else None, scale, softcap)
        for begin, part in zip(
            range(0, query.shape[2], QUERIES_AT_ONCE),
            query.split(QUERIES_AT_ONCE, dim=2),
            strict=True,
        )
    ]
    return torch.cat([part[0] for part in parts], dim=2), torch.cat([p[1] for p in parts], dim=2)


def _is_ampere(device: torch.device) -> bool:
    """Whether a device is one that torch's flash attention is written for."""
    return device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 8


def _attend_plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    first: int | None,
    scale: float | None,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain operations; ``first`` is the first query's index where causal."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query, key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if first is not None:
        rows = torch.arange(first, first + query.shape[2], device=query.device)
        columns = torch.arange(key.shape[2], device=query.device)
        scores = scores.masked_fill(columns > rows[:, None], float("-inf"))
    return torch.matmul(scores.softmax(-1).to(value.dtype), value), scores.logsumexp(-1)
