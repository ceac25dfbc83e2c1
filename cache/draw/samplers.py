"""Samplers: from seeds to the input embeddings that the teacher and the student are asked about.

A row is a function of its seed alone, and a longer draw extends a shorter one.  Only integers and
exact arithmetic are used, so it is the same in any batch and order, and on every device.  A new
sampler is one class here and its entry in :data:`SAMPLERS`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cache.draw.lengths import LONGEST
from cache.draw.philox import random_integers, random_integers_numpy, random_uniform
from cache.errors import SamplerError
from cache.suggestion import suggest

# What the counts of a quantised distribution sum to: the number of 32-bit integers.
WHOLE = 1 << 32


class Sampler(ABC):
    """What draws a row's input embeddings from its seed."""

    name: str  # a key of :data:`SAMPLERS`, or a mixture
    width: int  # length of one embedding

    @abstractmethod
    def draw_embeddings(self, seeds: NDArray[np.uint64], length: int) -> torch.Tensor:
        """Draw a row for each seed (B,), as shape (B, length, width) in the table's dtype.

        Raises:
            SamplerError: The seeds are not a vector of uint64, or the length is below 1.
        """


class TokenSampler(Sampler):
    """A sampler whose embeddings are rows of the table, so that its inputs have token ids."""

    @abstractmethod
    def draw_ids(self, seeds: NDArray[np.uint64], length: int) -> NDArray[np.int64]:
        """Draw the token ids of the same inputs, shape (B, length); same errors."""


class UniformSampler(Sampler):
    """The paper's inputs: every coordinate independent and uniform in [0, 1).

    A coordinate is 24 random bits times 2**-24, exact in float32.  Cast to a narrower dtype, the
    largest of them round to 1.
    """

    name = "uniform"

    def __init__(self, table: torch.Tensor, thresholds: object = None) -> None:
        self.width = table.shape[1]
        self._dtype, self._device = table.dtype, table.device

    def draw_embeddings(self, seeds: NDArray[np.uint64], length: int) -> torch.Tensor:
        """Draw inputs of one length; see :class:`Sampler`."""
        count = _check_length(length) * self.width
        values = random_uniform(seeds, count, dtype=self._dtype, device=self._device)
        return values.view(len(seeds), length, self.width)


class TableSampler(TokenSampler):
    """Rows of the embedding table (V, d) at independently drawn token ids."""

    def __init__(self, table: torch.Tensor, thresholds: NDArray[np.int64] | None = None) -> None:
        self.table = table
        self.width = table.shape[1]

    @abstractmethod
    def pick(self, words: torch.Tensor) -> torch.Tensor:
        """Turn 32-bit integers, as int64, into ids, on their device."""

    def draw_ids(self, seeds: NDArray[np.uint64], length: int) -> NDArray[np.int64]:
        """Draw token ids, shape (B, length)."""
        words = random_integers_numpy(seeds, _check_length(length)).astype(np.int64)
        return self.pick(torch.from_numpy(words)).numpy()

    def draw_embeddings(self, seeds: NDArray[np.uint64], length: int) -> torch.Tensor:
        """Draw inputs of one length; see :class:`Sampler`."""
        if self.table.is_cuda:  # there, since a copy would wait for what the GPU is doing
            device = self.table.device
            ids = self.pick(random_integers(seeds, _check_length(length), device=device))
        else:
            ids = torch.from_numpy(self.draw_ids(seeds, length)).to(self.table.device)
        return self.table.index_select(0, ids.flatten()).view(*ids.shape, self.width)


class VocabularySampler(TableSampler):
    """Token ids that are drawn uniformly."""

    name = "vocabulary"

    def pick(self, words: torch.Tensor) -> torch.Tensor:
        """Return ``(u * V) >> 32`` of 32-bit integers u."""
        # Two limbs, since the product of 32 bits with a vocabulary of up to 32 may leave int64.
        high, low, count = words >> 16, words & 0xFFFF, len(self.table)
        return (high * count + (low * count >> 16)) >> 16


class UnigramSampler(TableSampler):
    """Token ids of a given distribution."""

    name = "unigram"

    def __init__(self, table: torch.Tensor, thresholds: NDArray[np.int64] | None) -> None:
        """Check the thresholds, shape (V,), as :func:`quantise_distribution` makes them."""
        super().__init__(table)
        if thresholds is None:
            raise SamplerError("the sampler 'unigram' needs the distribution of the token ids")
        thresholds = np.array(thresholds, dtype=np.int64)
        if thresholds.shape != (table.shape[0],):
            raise SamplerError(
                f"thresholds: got shape {thresholds.shape}, must be ({table.shape[0]},), one for "
                "each row of the embedding table"
            )
        if thresholds[-1] != WHOLE or thresholds[0] < 0 or (np.diff(thresholds) < 0).any():
            raise SamplerError("thresholds must not decrease and must end at 2**32")
        here = torch.from_numpy(thresholds)
        self._thresholds = {each.device: each for each in (here, here.to(table.device))}

    def pick(self, words: torch.Tensor) -> torch.Tensor:
        """Return the first ids whose thresholds are above 32-bit integers."""
        return torch.searchsorted(self._thresholds[words.device], words, right=True)


SAMPLERS: dict[str, Callable[[torch.Tensor, NDArray[np.int64] | None], Sampler]] = {
    "uniform": UniformSampler,
    "vocabulary": VocabularySampler,
    "unigram": UnigramSampler,
}
"""What makes a sampler of a table (V, d) and a quantised distribution of its ids, by name."""


def build_sampler(
    name: str, *, table: torch.Tensor, thresholds: NDArray[np.int64] | None = None
) -> Sampler:
    """Make a sampler of a table (V, d) by its key in :data:`SAMPLERS`.

    ``thresholds``, from :func:`quantise_distribution`, are for ``unigram``; the others ignore them.
    SamplerError: there is no such sampler, or the table or the thresholds do not fit it.
    """
    if name not in SAMPLERS:
        raise SamplerError(f"unknown sampler {name!r}{suggest(name, SAMPLERS)}")
    if table.ndim != 2 or not table.is_floating_point() or 0 in table.shape:
        got = f"{table.dtype} of shape {tuple(table.shape)}"
        raise SamplerError(f"embedding table: got {got}, must be floating point of shape (V, d)")
    return SAMPLERS[name](table.detach(), thresholds)


def quantise_distribution(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Turn probabilities (V,) into cumulative counts (V,) up to 2**32, with which drawing is exact.

    Every id that is possible at all keeps one count, the rest of the 2**32 is shared out in
    proportion, and what rounding leaves goes to the largest remainders.  The result is the same on
    every machine.

    Raises:
        SamplerError: These are not probabilities that sum to 1 within one part in a thousand.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise SamplerError(f"probabilities: got shape {values.shape}, must be (V,)")
    if not np.isfinite(values).all() or (values < 0).any():
        worst = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
        raise SamplerError(f"probabilities: got {values[worst]} for id {worst}, must be in [0, 1]")
    # numpy's own sum depends on the machine's vector width in its last bits.
    total = math.fsum(values)
    if abs(total - 1) > 1e-3:
        raise SamplerError(f"probabilities: got a sum of {total}, must be 1")
    possible = np.flatnonzero(values)
    shares = values[possible] / total * (WHOLE - len(possible))
    whole = np.floor(shares)
    counts = whole.astype(np.int64) + 1
    missing = WHOLE - int(counts.sum())
    counts[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    full = np.zeros(len(values), dtype=np.int64)
    full[possible] = counts
    return np.cumsum(full)


def _check_length(length: int) -> int:
    if not 1 <= length <= LONGEST:
        raise SamplerError(f"length: got {length}, must be in [1, {LONGEST}]")
    return length
