"""From seeds to inputs: counter-based random integers and the samplers built on them.

The same bits on every device.  Knows an embedding table's numbers, not whose they are.
"""

from cache.draw.lengths import draw_lengths
from cache.draw.mixtures import Mixture, mix_samplers, parse_mixture
from cache.draw.philox import Purpose, mix_seeds, random_integers, random_integers_numpy, send
from cache.draw.samplers import (
    SAMPLERS,
    Sampler,
    TokenSampler,
    VocabularySampler,
    build_sampler,
    quantise_distribution,
)
