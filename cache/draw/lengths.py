"""How long the inputs are: one length for each chunk of rows, from the run's seed.

All rows of a chunk share a length, so that none is ever padded.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.draw.philox import Purpose, draw_blocks
from cache.errors import SamplerError

# No model reads inputs of more positions than this; a larger number is a slip of the finger.
LONGEST = 1_000_000


@dataclass(frozen=True)
class LengthRule:
    """Lengths, in positions, each in [minimum, maximum] equally often.

    SamplerError: there are none in that range, or inputs of such a length.
    """

    minimum: int
    maximum: int

    def __post_init__(self) -> None:
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
        return self.minimum + (words.astype(np.int64) * (self.maximum - self.minimum + 1) >> 32)
