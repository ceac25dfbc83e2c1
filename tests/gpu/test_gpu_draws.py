"""Random integers and embeddings: the same bits on the device as on the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cache import draw
from cache.draw import philox

pytestmark = pytest.mark.gpu

WIDTH, IDS = 24, 997
TILE = 1 << 15
# The last two have more columns, and more rows, than one tile has.
SHAPES = [(1, 1), (3, 4099), (1, 4 * TILE + 7), (4 * TILE // 1001 + 5, 2001)]
MIXED = "uniform=0.25,unigram=0.25,vocabulary=0.5"
MIXTURES = (*draw.SAMPLERS, "unigram=0.5,vocabulary=0.5", MIXED)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("tile", [TILE, philox.GPU_TILE])
@pytest.mark.parametrize(("rows", "count"), SHAPES)
def test_bits_are_those_of_the_processor(
    rows: int, count: int, tile: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(philox, "GPU_TILE", tile)
    seeds = draw.mix_seeds(2, 0, rows)
    found = draw.random_integers(seeds, count, device=device)
    assert found.device.type == device
    assert found.dtype == torch.int64
    assert np.array_equal(found.cpu().numpy(), draw.random_integers_numpy(seeds, count))
    for dtype in DTYPES:
        numbers = philox.random_uniform(seeds, count, dtype=dtype, device=device)
        assert numbers.device.type == device
        assert torch.equal(numbers.cpu(), philox.random_uniform(seeds, count, dtype=dtype))


def make_sampler(text: str, table: torch.Tensor) -> draw.Sampler:
    shares = np.arange(IDS, dtype=np.float64) ** 2
    thresholds = draw.quantise_distribution(shares / shares.sum())
    mixture = draw.parse_mixture(text, draw.SAMPLERS)
    parts = [draw.build_sampler(x, table=table, thresholds=thresholds) for x in mixture.names]
    return draw.mix_samplers(mixture, parts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MIXTURES)
def test_embeddings_are_the_same_on_every_device(
    name: str, dtype: torch.dtype, device: str
) -> None:
    table = torch.randn(IDS, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    here, there = make_sampler(name, table), make_sampler(name, table.to(device))
    for rows, length in ((1, 1), (1, 33), (64, 7), (30, 401)):
        seeds = draw.mix_seeds(5, 100, rows)
        found = there.draw_embeddings(seeds, length)
        assert found.device.type == device
        assert found.dtype == dtype
        assert torch.equal(found.cpu(), here.draw_embeddings(seeds, length))
        if isinstance(here, draw.TokenSampler):
            assert torch.equal(found.cpu(), table[torch.from_numpy(here.draw_ids(seeds, length))])
