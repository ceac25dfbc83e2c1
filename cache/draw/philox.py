"""Counter-based random integers: Philox4x32-10, the same bits on every device.

An integer is a pure function of a key and a counter, so a row can be drawn again on any machine, in
any order and batch.  A row's 64-bit seed is the key; the counter is the number of the block of four
32-bit words (64 bits), the stream (32 bits) and zero.  The same arithmetic is here twice: in numpy,
over blocks that fit the processor's cache, and in torch for draws that a GPU needs.
"""

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import SamplerError

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
HALF = np.uint64(32)
# Blocks worked on at once: three arrays of 512 KiB stay in the cache, few Python calls remain.
TILE = 1 << 15
# The same for torch: arrays of 32 MiB keep a GPU busy and bound what is held twice.
GPU_TILE = 1 << 22


class Purpose(IntEnum):
    """The stream word of the counter: draws for different purposes never share a block."""

    ROW_INPUT = 0
    ROW_SEED = 1
    CHUNK_LENGTH = 2
    COMPONENT = 3
    LABEL = 4
    WRITING = 5
    NOISE = 6


def mix_seeds(run_seed: int, first_row: int, rows: int) -> NDArray[np.uint64]:
    """Return the seeds of consecutive rows, shape (rows,), from a run's seed in [0, 2**64).

    Each depends on the run's seed and its row's index alone.  SamplerError: no such seed.
    """
    words = draw_blocks(run_seed, first_row, rows, Purpose.ROW_SEED).astype(np.uint64)
    return words[:, 0] | words[:, 1] << HALF


def draw_blocks(run_seed: int, first: int, count: int, purpose: Purpose) -> NDArray[np.uint32]:
    """Return consecutive blocks of four words under the run's own key, shape (count, 4)."""
    if not 0 <= run_seed < 1 << 64:
        raise SamplerError(f"run seed: got {run_seed}, must be in [0, {(1 << 64) - 1}]")
    key = np.array([run_seed], dtype=np.uint64)
    return random_integers_numpy(key, 4 * count, first=4 * first, stream=purpose).reshape(-1, 4)


def random_integers_numpy(
    seeds: NDArray[np.uint64], count: int, *, first: int = 0, stream: int = Purpose.ROW_INPUT
) -> NDArray[np.uint32]:
    """Draw a row of integers, uniform in [0, 2**32), for each seed (B,): shape (B, count).

    ``first`` is the index of the first one in every row's sequence; any split of a sequence gives
    the same integers as the whole.  ``stream`` is one of 2**32 independent sequences under the
    same seeds.  SamplerError: the seeds are not a vector of uint64.
    """
    _check_seeds(seeds)
    first_block, skipped = divmod(first, 4)
    blocks = -(-(skipped + count) // 4)
    words = np.empty((len(seeds), blocks, 4), dtype=np.uint32)
    # A long row has its key as a scalar; short rows share a tile, with one key for each column.
    columns = max(1, min(blocks, TILE))
    height = 1 if columns > TILE // 2 else TILE // columns
    keys = np.stack([seeds << HALF, seeds >> HALF << HALF])
    for column in range(0, blocks, columns):
        width = min(columns, blocks - column)
        index = np.arange(width, dtype=np.uint64) + np.uint64(first_block + column)
        for row in range(0, len(seeds), height):
            tile = words[row : row + height, column : column + width]
            state = np.empty((2, len(tile), width), dtype=np.uint64)
            state[0] = index << HALF | index >> HALF
            state[1] = int(stream) << 32
            key = keys[:, row : row + height]
            key = key.copy() if height == 1 else np.repeat(key, width, axis=1)
            _rounds_numpy(state.reshape(2, -1), key, tile)
    flat = words.reshape(len(seeds), 4 * blocks)
    return np.ascontiguousarray(flat[:, skipped : skipped + count])


def random_integers(
    seeds: NDArray[np.uint64], count: int, *, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw what :func:`random_integers_numpy` draws, as int64, by torch on the given device."""
    return _draw(seeds, count, torch.device(device), None)


def random_uniform(
    seeds: NDArray[np.uint64], count: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw a row of numbers in [0, 1) for each seed: 24 random bits times 2**-24.

    They are rounded to ``dtype`` from float32, which holds them exactly; shape (B, count).  A GPU
    computes them itself; for others numpy does, which is faster.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _draw(seeds, count, device, dtype)
    words = random_integers_numpy(seeds, count) >> 8
    return _to_unit(torch.from_numpy(words.view(np.int32)), dtype).to(device)


def send(values: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for what the device is doing."""
    # Without a copy torch warns of arrays that may not be written to.
    tensor = torch.from_numpy(values if values.flags.writeable else values.copy())
    if device.type != "cuda" or values.size == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _check_seeds(seeds: NDArray[np.uint64]) -> None:
    if not isinstance(seeds, np.ndarray) or seeds.dtype != np.uint64 or seeds.ndim != 1:
        got = f"{getattr(seeds, 'dtype', type(seeds).__name__)} {getattr(seeds, 'shape', '')}"
        raise SamplerError(f"seeds: got {got.strip()}, must be a vector of uint64")


def _rounds_numpy(
    state: NDArray[np.uint64], key: NDArray[np.uint64], words: NDArray[np.uint32]
) -> None:
    # Each uint64 holds two words of the state, (c0, c1) in the first line and (c2, c3) in the
    # second, the earlier word high.  So a round is six passes over both lines, without a mask:
    # the product's two halves land where the next round wants them, and the key sits high.
    multipliers = np.array(MULTIPLIERS, dtype=np.uint64)[:, None]
    key_steps = np.array(KEY_STEPS, dtype=np.uint64)[:, None] << HALF
    product = np.empty_like(state)
    for _ in range(ROUNDS):
        np.right_shift(state, HALF, out=product)
        np.multiply(product, multipliers, out=product)
        np.left_shift(state, HALF, out=state)
        np.bitwise_xor(state, product[::-1], out=state)
        np.bitwise_xor(state, key, out=state)
        np.add(key, key_steps, out=key)
    np.right_shift(state, HALF, out=product)
    shape = words.shape[:-1]
    for line in (0, 1):
        words[..., 2 * line] = product[line].reshape(shape)
        words[..., 2 * line + 1] = state[line].reshape(shape)


@torch.no_grad()
def _draw(
    seeds: NDArray[np.uint64], count: int, device: torch.device, dtype: torch.dtype | None
) -> torch.Tensor:
    """Return numbers in [0, 1) of a dtype, or the integers themselves as int64 without one."""
    _check_seeds(seeds)
    blocks = -(-count // 4)
    keys = send(seeds.view(np.int64), device)[:, None]
    made = torch.empty(len(seeds), blocks, 4, dtype=dtype or torch.int64, device=device)
    columns = max(1, min(blocks, GPU_TILE))
    height = max(1, GPU_TILE // columns)
    for column in range(0, blocks, columns):
        stop = min(column + columns, blocks)
        index = torch.arange(column, stop, dtype=torch.int64, device=device)[None]
        for row in range(0, len(seeds), height):
            words = _rounds_torch(index, keys[row : row + height])
            tile = words if dtype is None else _to_unit(words >> 8, dtype)
            made[row : row + height, column:stop] = tile
    return made.flatten(1)[:, :count].contiguous()


def _rounds_torch(index: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    # Block numbers (1, C) and keys (B, 1) give (B, C, 4).  int64 wraps, but to the right 64 bits.
    c0, c1 = index & MASK, index >> 32
    c2 = c3 = torch.zeros_like(index)
    k0, k1 = keys & MASK, (keys >> 32) & MASK
    for _ in range(ROUNDS):
        p, q = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((q >> 32) & MASK) ^ c1 ^ k0, q & MASK
        c2, c3 = ((p >> 32) & MASK) ^ c3 ^ k1, p & MASK
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    return torch.stack([c0, c1, c2, c3], dim=-1)


def _to_unit(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return words.to(torch.float32).mul_(2.0**-24).to(dtype)
