"""The generator of :mod:`cache.draw.philox` in torch operations, for draws that a GPU needs.

A draw for a CUDA device is made there, operation by operation; one for any other device is made
by numpy, which is faster on a processor.  The bits are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cache.draw.philox import (
    KEY_STEPS,
    MASK,
    MULTIPLIERS,
    ROUNDS,
    Purpose,
    check_draw,
    random_integers_numpy,
)

TILE = 1 << 22
"""Blocks made at once: arrays of 32 MiB keep a GPU busy and bound what is held twice."""


def random_integers(
    seeds: NDArray[np.uint64],
    count: int,
    *,
    first: int = 0,
    stream: int = Purpose.ROW_INPUT,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Draw a row of integers in [0, 2**32) for each seed, computed by torch on a device.

    Args:
        seeds: One key a row, shape (B,).
        count: Integers a row.
        first: Index of the first integer in every row's sequence.
        stream: One of 2**32 independent sequences under the same seeds.
        device: Where they are computed.

    Returns:
        What :func:`cache.draw.philox.random_integers_numpy` returns, as int64, shape (B, count).

    Raises:
        SamplerError: As there.
    """
    return _draw(seeds, count, first, stream, torch.device(device), None)


def random_uniform(
    seeds: NDArray[np.uint64],
    count: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Draw a row of numbers in [0, 1) for each seed: 24 random bits times 2**-24.

    Args:
        seeds: One key a row, shape (B,).
        count: Numbers a row.
        dtype: What they are rounded to from float32, which holds them exactly.
        device: Where the tensor is to lie.

    Returns:
        Shape (B, count), of the dtype.

    Raises:
        SamplerError: As for :func:`random_integers`.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _draw(seeds, count, 0, Purpose.ROW_INPUT, device, dtype)
    words = random_integers_numpy(seeds, count)
    words >>= 8
    return _to_unit(torch.from_numpy(words.view(np.int32)), dtype).to(device)


def send(values: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for what the device is doing."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda" or values.size == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@torch.no_grad()
def _draw(
    seeds: NDArray[np.uint64],
    count: int,
    first: int,
    stream: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> torch.Tensor:
    """Return numbers in [0, 1) of a dtype, or the integers themselves as int64 without one."""
    check_draw(seeds, count, first, stream)
    first_block, skipped = divmod(first, 4)
    blocks = -(-(skipped + count) // 4)
    keys = send(seeds.view(np.int64), device)[:, None]
    tag = torch.full((1, 1), int(stream), dtype=torch.int64, device=device)
    made = torch.empty(len(seeds), blocks, 4, dtype=dtype or torch.int64, device=device)
    columns = max(1, min(blocks, TILE))
    height = max(1, TILE // columns)
    for column in range(0, blocks, columns):
        width = min(columns, blocks - column)
        # As the signed number with the same bits; torch's sum wraps like the unsigned one.
        start = np.uint64(first_block + column).astype(np.int64).item()
        index = torch.arange(width, dtype=torch.int64, device=device)[None] + start
        for row in range(0, len(seeds), height):
            words = _rounds(index, tag, keys[row : row + height])
            tile = words if dtype is None else _to_unit(words >> 8, dtype)
            made[row : row + height, column : column + width] = tile
    return made.flatten(1)[:, skipped : skipped + count].contiguous()


def _rounds(index: torch.Tensor, stream: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    # Block numbers (1, C), a stream (1, 1) and keys (B, 1) give words (B, C, 4).  The product of
    # two 32-bit words wraps in int64, but its 64 bits are the right ones.
    c0, c1, c2, c3 = index & MASK, (index >> 32) & MASK, stream, torch.zeros_like(stream)
    k0, k1 = keys & MASK, (keys >> 32) & MASK
    for _ in range(ROUNDS):
        p, q = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((q >> 32) & MASK) ^ c1 ^ k0, q & MASK
        c2, c3 = ((p >> 32) & MASK) ^ c3 ^ k1, p & MASK
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    return torch.stack([c0, c1, c2, c3], dim=-1)


def _to_unit(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return words.to(torch.float32).mul_(2.0**-24).to(dtype)
