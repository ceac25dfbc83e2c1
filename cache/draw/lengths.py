"""How long the inputs are: one length for each chunk of rows, from the run's seed.

All rows of a chunk share a length, so that none is ever padded.
"""

import functools
from bisect import bisect_right
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context

import numpy as np
from numpy.typing import NDArray

from cache.draw.philox import Purpose, draw_blocks
from cache.errors import SamplerError

LENGTH_KINDS = ("uniform", "log-uniform")
# No model reads inputs of more positions than this; a larger number is a slip of the finger.
LONGEST = 1_000_000


@dataclass(frozen=True)
class LengthRule:
    """A rule that lengths, in positions, are drawn by; SamplerError where there is no such rule.

    ``uniform`` draws every length in [minimum, maximum] equally often; ``log-uniform`` in
    proportion to ln((L+1)/L), which is every scale of length equally often.
    """

    kind: str
    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if self.kind not in LENGTH_KINDS:
            known = ", ".join(LENGTH_KINDS)
            raise SamplerError(f"rule for lengths: got {self.kind!r}, must be one of {known}")
        if not 1 <= self.maximum <= LONGEST:
            raise SamplerError(f"maximum length: got {self.maximum}, must be in [1, {LONGEST}]")
        if not 1 <= self.minimum <= self.maximum:
            raise SamplerError(
                f"minimum length: got {self.minimum}, must be in [1, {self.maximum}]"
            )

    def draw_lengths(self, run_seed: int, first_chunk: int, chunks: int) -> NDArray[np.int64]:
        """Return the lengths of consecutive chunks, shape (chunks,), from a seed in [0, 2**64).

        Each depends on the seed and its chunk's index alone.  SamplerError: no such seed.
        """
        words = draw_blocks(run_seed, first_chunk, chunks, Purpose.CHUNK_LENGTH)[:, 0]
        if self.kind == "uniform":
            count = self.maximum - self.minimum + 1
            return self.minimum + (words.astype(np.int64) * count >> 32)
        lengths = range(self.minimum, self.maximum + 1)
        threshold = functools.partial(_length_threshold, self.minimum, self.maximum)
        drawn = [lengths[bisect_right(lengths, word, key=threshold)] for word in words.tolist()]
        return np.array(drawn, dtype=np.int64)


@functools.lru_cache(maxsize=1 << 16)
def _length_threshold(minimum: int, maximum: int, length: int) -> int:
    # Cumulative count of the lengths up to this one.  Decimal rounds a logarithm correctly, so
    # that the thresholds are the same everywhere; those of a C library are not.
    context = Context(prec=40, rounding=ROUND_HALF_EVEN)
    part = context.ln(context.divide(length + 1, minimum))
    whole = context.ln(context.divide(maximum + 1, minimum))
    count = context.multiply(context.divide(part, whole), 1 << 32)
    return int(count.to_integral_value(rounding=ROUND_HALF_EVEN))
