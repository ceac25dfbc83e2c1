"""Random integers and embeddings: the same bits on the device as on the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cache.draw.mixtures import mix_samplers, parse_mixture
from cache.draw.philox import mix_seeds, random_integers_numpy
from cache.draw.philox_torch import (
    KERNEL_TILE,
    Backend,
    choose_backend,
    compiler_problem,
    random_bits,
    random_integers,
    random_uniform,
)
from cache.draw.samplers import (
    SAMPLERS,
    Sampler,
    TokenSampler,
    build_sampler,
    quantise_distribution,
)

pytestmark = pytest.mark.gpu

WIDTH, IDS = 24, 997

DRAWS = {
    "odd": (3, 4099, 0, 0),
    "one": (1, 1, 2, 2**31),
    "wrapped": (3, 50, 2**65, 5),
    "all-ones": (4, 4, 0, 2**32 - 1),  # a word whose product overflows an int64
    "seam": (2, 70_001, 2**34 - 9, 1),
    "long": (1, 4 * (KERNEL_TILE // 2) + 7, 3, 0),  # more columns than one tile has
    "many": (2 * KERNEL_TILE // 1001 + 5, 2001, 0, 3),  # more rows than one tile has
}
"""Rows, words of each, the first word's number, and the stream."""

MIXTURES = (*SAMPLERS, "unigram=0.5,vocabulary=0.5", "uniform=0.25,unigram=0.25,vocabulary=0.5")


@pytest.fixture(params=["eager", "compiled", "auto"])
def backend(request: pytest.FixtureRequest, device: str) -> Backend:
    if request.param == "compiled" and device == "cpu":
        pytest.skip("tests/cache compiles for the processor")
    if request.param == "compiled" and (problem := compiler_problem(device)):
        pytest.skip(problem)
    found: Backend = request.param
    return found


@pytest.mark.parametrize("name", DRAWS)
def test_bits_are_the_reference_s(name: str, backend: Backend, device: str) -> None:
    rows, count, first, stream = DRAWS[name]
    seeds = mix_seeds(2, 0, rows)
    made = random_bits(seeds, count, first=first, stream=stream, device=device, backend=backend)
    assert made.device.type == device
    assert made.dtype == torch.int32
    wanted = random_integers_numpy(seeds, count, first=first, stream=stream)
    assert np.array_equal(made.cpu().numpy().view(np.uint32), wanted)
    if count < 100:
        words = random_integers(
            seeds, count, first=first, stream=stream, device=device, backend=backend
        )
        assert np.array_equal(words.cpu().numpy(), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_numbers_are_the_reference_s(dtype: torch.dtype, backend: Backend, device: str) -> None:
    for rows, count in ((5, 131), (2, 200_003)):
        seeds = mix_seeds(3, 9, rows)
        made = random_uniform(seeds, count, dtype=dtype, device=device, backend=backend)
        assert made.device.type == device
        wanted = random_uniform(seeds, count, dtype=dtype, backend="numpy")
        assert torch.equal(made.cpu(), wanted)


def test_large_draws_are_compiled_where_they_can_be(device: str) -> None:
    if device == "cpu":
        pytest.skip("draws for the processor are numpy's")
    problem = compiler_problem(device)
    assert choose_backend(device, 1 << 20) == ("eager" if problem else "compiled")


def make_samplers(table: torch.Tensor) -> dict[str, Sampler]:
    shares = np.arange(IDS, dtype=np.float64) ** 2
    thresholds = quantise_distribution(shares / shares.sum())
    parts = {name: build_sampler(name, table=table, thresholds=thresholds) for name in SAMPLERS}
    found = {}
    for text in MIXTURES:
        mixture = parse_mixture(text, SAMPLERS)
        found[text] = mix_samplers(mixture, [parts[name] for name in mixture.names])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MIXTURES)
def test_embeddings_are_the_same_on_every_device(
    name: str, dtype: torch.dtype, device: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(IDS, WIDTH, generator=generator).to(dtype)
    here, there = make_samplers(table)[name], make_samplers(table.to(device))[name]
    # The last ones are large enough to be drawn by a compiled kernel.
    for rows, length in ((1, 1), (1, 33), (64, 7), (30, 401), (900, 301)):
        seeds = mix_seeds(5, 100, rows)
        found = there.draw_embeddings(seeds, length)
        assert found.device.type == device
        assert found.dtype == dtype
        assert torch.equal(found.cpu(), here.draw_embeddings(seeds, length))
        if isinstance(here, TokenSampler):
            ids = torch.from_numpy(here.draw_ids(seeds, length))
            assert torch.equal(found.cpu(), table[ids])
