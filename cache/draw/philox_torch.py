"""The generator of :mod:`cache.draw.philox` in torch operations, and the choice of how to run it.

Three ways give the same bits: numpy over blocks that fit the processor's cache, torch operation by
operation, and the same torch code compiled into one pass.  :func:`choose_backend` picks one.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

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
from cache.errors import SamplerError

Backend = Literal["auto", "numpy", "eager", "compiled"]

EAGER_TILE = 1 << 15
"""Blocks made at once without a compiler on a CPU, where every operation passes over memory."""
KERNEL_TILE = 1 << 22
"""Blocks made at once by a compiled kernel or a GPU: 64 MiB of words bound what is held twice."""
WORTH_A_KERNEL = 1 << 18
"""A smaller draw is over in a millisecond or two without, so compiling a kernel would not pay."""

_Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.dtype | None], torch.Tensor]


def random_integers(
    seeds: NDArray[np.uint64],
    count: int,
    *,
    first: int = 0,
    stream: int = Purpose.ROW_INPUT,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> torch.Tensor:
    """Draw a row of integers in [0, 2**32) for each seed, as an int64 tensor.

    Arguments and errors are those of :func:`random_bits`.

    Returns:
        What :func:`cache.draw.philox.random_integers_numpy` returns, as int64, shape (B, count).
    """
    bits = random_bits(seeds, count, first=first, stream=stream, device=device, backend=backend)
    return bits.to(torch.int64).bitwise_and_(MASK)


def random_bits(
    seeds: NDArray[np.uint64],
    count: int,
    *,
    first: int = 0,
    stream: int = Purpose.ROW_INPUT,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> torch.Tensor:
    """Draw a row of 32-bit words for each seed, as a tensor on a device.

    Args:
        seeds: One key a row, shape (B,).
        count: Vocabulary a row.
        first: Index of the first word in every row's sequence.
        stream: One of 2**32 independent sequences under the same seeds.
        device: Where the tensor is to lie.
        backend: How to compute it; never changes a bit of the result.

    Returns:
        int32 with the bits of what ``random_integers_numpy`` returns (torch does
        little with unsigned integers), shape (B, count).

    Raises:
        SamplerError: As there; or ``compiled`` was asked for and cannot be had.
    """
    return _random(seeds, count, first, stream, torch.device(device), backend, None)


def random_uniform(
    seeds: NDArray[np.uint64],
    count: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> torch.Tensor:
    """Draw a row of numbers in [0, 1) for each seed: 24 random bits times 2**-24.

    Where the generator is compiled, so is the conversion: one pass, and no integers in memory.

    Args:
        seeds: One key a row, shape (B,).
        count: Numbers a row.
        dtype: What they are rounded to from float32, which holds them exactly.
        device: Where the tensor is to lie.
        backend: How to compute it; never changes a bit of the result.

    Returns:
        Shape (B, count), of the dtype.

    Raises:
        SamplerError: As for :func:`random_bits`.
    """
    return _random(seeds, count, 0, Purpose.ROW_INPUT, torch.device(device), backend, dtype)


def choose_backend(
    device: torch.device | str, integers: int
) -> Literal["numpy", "eager", "compiled"]:
    """Return how ``auto`` computes a draw of so many integers for a device."""
    if torch.device(device).type != "cuda":
        return "numpy"
    # A small draw too is made on the GPU: copying one there would wait for what it is doing.
    small = integers < WORTH_A_KERNEL
    return "eager" if small or compiler_problem("cuda") else "compiled"


def describe_backend(device: torch.device | str) -> str:
    """Return a line for the log: how large draws for a device are made, and why so."""
    kind = torch.device(device).type
    problem = compiler_problem(kind)
    if kind == "cuda":
        if problem:
            return f"random integers: unfused torch kernels on cuda ({problem})"
        small = f"unfused ones below {WORTH_A_KERNEL}"
        return f"random integers: a compiled torch kernel on cuda, {small}"
    copied = "" if kind == "cpu" else f", copied to {kind}"
    why = problem or "compiling would take longer than most runs spend on them"
    return f"random integers: numpy blocks{copied} ({why})"


@functools.cache
def compiler_problem(device_type: str) -> str:
    """Return why torch.compile cannot work for a kind of device, or an empty string."""
    if device_type not in ("cpu", "cuda"):
        return f"no compiled kernel for {device_type}"
    variable, usual = ("CC", "gcc clang") if device_type == "cuda" else ("CXX", "g++")
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        return "no compiled kernel: triton is not installed"
    # The variable may hold arguments as well, the usual names are alternatives.
    names = os.environ[variable].split()[:1] if os.environ.get(variable) else usual.split()
    if not any(shutil.which(name) for name in names):
        return f"no compiled kernel: no compiler ({' or '.join(names)}) was found"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no compiled kernel: Python's header files are not installed"
    if " " in torch.__file__:
        # torch hands its own folder to the compiler unquoted.
        return "no compiled kernel: torch is installed in a folder with a space in its path"
    return ""


def send(values: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for what the device is doing."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _random(
    seeds: NDArray[np.uint64],
    count: int,
    first: int,
    stream: int,
    device: torch.device,
    backend: Backend,
    dtype: torch.dtype | None,
) -> torch.Tensor:
    check_draw(seeds, count, first, stream)
    chosen = choose_backend(device, len(seeds) * count) if backend == "auto" else backend
    if chosen == "numpy" or len(seeds) * count == 0:
        words = random_integers_numpy(seeds, count, first=first, stream=stream)
        bits = torch.from_numpy(words.view(np.int32))
        return (bits if dtype is None else _to_unit(bits, dtype)).to(device)
    kernel: _Kernel = _make_tile
    if chosen == "compiled":
        compiled, problem = _compile(device.type, dtype)
        if compiled is not None:
            kernel = compiled
        elif backend == "compiled":
            raise SamplerError(f"the compiled generator cannot be had: {problem}")
        else:
            warnings.warn(
                f"random integers come from unfused torch kernels on {device.type}: {problem}",
                RuntimeWarning,
                stacklevel=3,
            )
    tile = EAGER_TILE if device.type == "cpu" and kernel is _make_tile else KERNEL_TILE
    return _draw(kernel, tile, seeds, count, first, stream, device, dtype)


def philox_torch(counter: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return the int32 words (N, 4) of single blocks, from int64 counters (N, 4), keys (N, 2)."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    return _rounds(c0, c1, c2, c3, k0, k1)


def _rounds(
    c0: torch.Tensor,
    c1: torch.Tensor,
    c2: torch.Tensor,
    c3: torch.Tensor,
    k0: torch.Tensor,
    k1: torch.Tensor,
) -> torch.Tensor:
    for _ in range(ROUNDS):
        p, q = _multiply(c0, MULTIPLIERS[0]), _multiply(c2, MULTIPLIERS[1])
        c0, c1 = ((q >> 32) & MASK) ^ c1 ^ k0, q & MASK
        c2, c3 = ((p >> 32) & MASK) ^ c3 ^ k1, p & MASK
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    return torch.stack([word.to(torch.int32) for word in (c0, c1, c2, c3)], dim=-1)


def _multiply(word: torch.Tensor, factor: int) -> torch.Tensor:
    # The product of two 32-bit words wraps in int64, but its 64 bits are the right ones.  Only in
    # the C++ that torch.compile writes for a CPU is a signed product not allowed to wrap: there a
    # compiler may take it to be positive, and has been seen to change bits over such an overflow
    # (pytorch issue 190764).  Elsewhere torch does not multiply unsigned integers.
    if torch.compiler.is_compiling() and word.device.type == "cpu":
        return (word.view(torch.uint64) * factor).view(torch.int64)
    return word * factor


def _make_tile(
    seeds: torch.Tensor, index: torch.Tensor, stream: torch.Tensor, dtype: torch.dtype | None
) -> torch.Tensor:
    # (B,), (C,) and a scalar, all int64, give (B, C, 4) of int32, or numbers in [0, 1).
    # The words stay apart until the end, so that all of it is one pass when compiled.
    low, high = (index & MASK)[None], ((index >> 32) & MASK)[None]
    k0, k1 = (seeds & MASK)[:, None], ((seeds >> 32) & MASK)[:, None]
    words = _rounds(low, high, stream, torch.zeros_like(stream), k0, k1)
    return words if dtype is None else _to_unit(words, dtype)


def _to_unit(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return ((bits >> 8).bitwise_and(0xFFFFFF).to(torch.float32) * 2.0**-24).to(dtype)


@torch.no_grad()
def _draw(
    kernel: _Kernel,
    tile: int,
    seeds: NDArray[np.uint64],
    count: int,
    first: int,
    stream: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> torch.Tensor:
    first_block, skipped = divmod(first, 4)
    blocks = -(-(skipped + count) // 4)
    keys = send(seeds.view(np.int64), device)
    tag = torch.tensor(int(stream), dtype=torch.int64, device=device)
    columns = min(blocks, tile // 2)
    height = tile // columns
    parts = []
    for column in range(0, blocks, columns):
        width = min(columns, blocks - column)
        # As the signed number with the same bits; torch's sum wraps like the unsigned one.
        start = np.uint64(first_block + column).astype(np.int64).item()
        # torch.compile makes another kernel for an axis of length one: such an axis is doubled.
        index = torch.arange(max(width, 2), dtype=torch.int64, device=device) + start
        made = []
        for rows in torch.split(keys, height):
            words = kernel(rows if len(rows) > 1 else rows.repeat(2), index, tag, dtype)
            made.append(words[: len(rows), :width])
        parts.append(_join(made, 0).flatten(1))
    return _join(parts, 1)[:, skipped : skipped + count].contiguous()


def _join(parts: list[torch.Tensor], axis: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


@functools.cache
def _compile(device_type: str, dtype: torch.dtype | None) -> tuple[_Kernel | None, str]:
    # Remembered for the process, a failure too: it depends on the machine alone and takes long.
    problem = compiler_problem(device_type)
    if problem:
        return None, problem
    kernel = torch.compile(_make_tile, dynamic=True, fullgraph=True)
    # Two unequal lengths, since torch.compile takes equal ones to be equal for ever.
    keys = torch.arange(2, dtype=torch.int64, device=device_type)
    index = torch.arange(3, dtype=torch.int64, device=device_type)
    try:
        with torch.no_grad():
            kernel(keys, index, torch.tensor(0, dtype=torch.int64, device=device_type), dtype)
    except Exception as error:  # whatever a compiler may fail with, the answer is the same
        return (
            None,
            f"torch.compile failed: {(str(error).strip().splitlines() or [repr(error)])[0]}",
        )
    return kernel, ""
