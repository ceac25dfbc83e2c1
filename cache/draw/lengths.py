"""How long the inputs are: one length for each chunk of rows, from the run's seed.

All drawn rows of a chunk share a length, so that none of them is ever padded.
"""

import numpy as np
from numpy.typing import NDArray

from cache.draw.philox import Purpose, draw_blocks
from cache.errors import SamplerError

# No model reads inputs of more positions than this; a larger number is a slip of the finger.
LONGEST = 1_000_000


def draw_lengths(longest: int, run_seed: int, first_chunk: int, chunks: int) -> NDArray[np.int64]:
    """Return the lengths of consecutive chunks, in positions, shape (chunks,).

    Each from 1 to ``longest`` is drawn equally often, by the seed, in [0, 2**64), and its chunk's
    index alone.  SamplerError: there are no such lengths, or no such seed.
    """
    if not 1 <= longest <= LONGEST:
        raise SamplerError(f"maximum length: got {longest}, must be in [1, {LONGEST}]")
    words = draw_blocks(run_seed, first_chunk, chunks, Purpose.CHUNK_LENGTH)[:, 0]
    return 1 + (words.astype(np.int64) * longest >> 32)
