"""Mixtures of samplers, such as ``vocabulary=0.5,self=0.5``: each row is drawn by one of them.

Which one follows from the row's seed, as everything else about the row does.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
import torch
from numpy.typing import NDArray

from cache.draw.philox import Purpose, random_integers_numpy
from cache.draw.samplers import Sampler, TokenSampler, quantise_distribution
from cache.errors import SamplerError
from cache.suggestion import suggest


@dataclass(frozen=True)
class Mixture:
    """Samplers and their shares of the rows."""

    # Names and shares, in alphabetical order; the shares are above 0 and sum to 1.
    parts: tuple[tuple[str, Decimal], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The samplers' names."""
        return tuple(name for name, _ in self.parts)

    @property
    def text(self) -> str:
        """The one way to write it: a name, or names with shares."""
        if len(self.parts) == 1:
            return self.names[0]
        return ",".join(f"{name}={share.normalize():f}" for name, share in self.parts)

    def choose_parts(self, seeds: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return which of the parts draws each row, shape (B,)."""
        shares = np.array([float(share) for _, share in self.parts])
        words = random_integers_numpy(seeds, 1, stream=Purpose.COMPONENT)[:, 0].astype(np.int64)
        return np.searchsorted(quantise_distribution(shares), words, side="right").astype(np.int64)


def parse_mixture(text: str, known: Collection[str]) -> Mixture:
    """Read ``NAME``, or ``NAME=SHARE,NAME=SHARE,…`` with shares that sum to 1, of known samplers.

    Raises:
        SamplerError: It is neither.
    """
    found: dict[str, Decimal] = {}
    for part in text.split(","):
        name, separator, number = (item.strip() for item in part.partition("="))
        if name not in known:
            raise SamplerError(f"unknown sampler {name!r}{suggest(name, known)}")
        if name in found:
            raise SamplerError(f"sampler: {name} is named twice in {text!r}")
        if not separator and "," in text:
            raise SamplerError(
                f"sampler: got {text!r}, must give every sampler its share, such as {name}=0.5"
            )
        try:
            found[name] = Decimal(number) if separator else Decimal(1)
        except InvalidOperation as error:
            raise SamplerError(f"share of {name}: got {number!r}, must be a number") from error
        if not found[name].is_finite() or not 0 < found[name] <= 1:
            raise SamplerError(f"share of {name}: got {number}, must be in (0, 1]")
    total = sum(found.values())
    if total != 1:
        raise SamplerError(f"sampler: the shares of {text!r} sum to {total}, must sum to 1")
    return Mixture(tuple(sorted(found.items())))


class MixtureSampler(Sampler):
    """Rows that are drawn by one of several samplers each."""

    def __init__(self, mixture: Mixture, samplers: Sequence[Sampler]) -> None:
        self.name = mixture.text
        self.width = samplers[0].width
        self.mixture = mixture
        self.samplers = samplers

    def draw_embeddings(self, seeds: NDArray[np.uint64], length: int) -> torch.Tensor:
        """Draw inputs of one length; see :class:`cache.draw.samplers.Sampler`."""
        chosen = self.mixture.choose_parts(seeds)
        parts = [
            sampler.draw_embeddings(seeds[chosen == number], length)
            for number, sampler in enumerate(self.samplers)
        ]
        rows = np.argsort(np.argsort(chosen, kind="stable"), kind="stable")
        drawn = torch.cat(parts)
        return drawn[torch.from_numpy(rows).to(drawn.device)]


class TokenMixtureSampler(MixtureSampler, TokenSampler):
    """The same where every sampler draws token ids."""

    samplers: Sequence[TokenSampler]

    def draw_ids(self, seeds: NDArray[np.uint64], length: int) -> NDArray[np.int64]:
        """Draw the token ids of the same inputs, shape (B, length)."""
        chosen = self.mixture.choose_parts(seeds)
        ids = np.empty((len(seeds), length), dtype=np.int64)
        for number, sampler in enumerate(self.samplers):
            ids[chosen == number] = sampler.draw_ids(seeds[chosen == number], length)
        return ids


def mix_samplers(mixture: Mixture, samplers: Sequence[Sampler]) -> Sampler:
    """Make the sampler of a mixture from a sampler for each part, in the same order."""
    if len(samplers) == 1:
        return samplers[0]
    token = [sampler for sampler in samplers if isinstance(sampler, TokenSampler)]
    if len(token) == len(samplers):
        return TokenMixtureSampler(mixture, token)
    return MixtureSampler(mixture, samplers)
