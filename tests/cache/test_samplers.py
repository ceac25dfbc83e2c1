"""Samplers: what they draw is exact, follows from the seed alone and has the right distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.draw.philox import mix_seeds, random_integers_numpy
from cache.draw.samplers import (
    SAMPLERS,
    WHOLE,
    Sampler,
    TokenSampler,
    UnigramSampler,
    VocabularySampler,
    build_sampler,
    quantise_distribution,
)
from cache.errors import SamplerError

VOCABULARY, WIDTH = 50, 6


def make_table(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.arange(VOCABULARY * WIDTH, dtype=torch.float32).view(VOCABULARY, WIDTH)
    return (values / 7).to(dtype).requires_grad_()


def make_thresholds() -> np.ndarray:
    weights = 1.0 / np.arange(1, VOCABULARY + 1)
    weights[10] = 0
    return quantise_distribution(weights / weights.sum())


def make_sampler(name: str, dtype: torch.dtype = torch.float32) -> Sampler:
    return build_sampler(name, table=make_table(dtype), thresholds=make_thresholds())


@pytest.mark.parametrize("name", SAMPLERS)
def test_embeddings_have_the_shape_dtype_and_no_gradient(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        sampler = make_sampler(name, dtype)
        drawn = sampler.draw_embeddings(mix_seeds(0, 0, 3), 5)
        assert (sampler.name, sampler.width) == (name, WIDTH)
        assert (drawn.shape, drawn.dtype) == ((3, 5, WIDTH), dtype)
        assert not drawn.requires_grad
        assert isinstance(sampler, TokenSampler) == (name != "uniform")
        if isinstance(sampler, TokenSampler):
            ids = make_sampler(name).draw_ids(mix_seeds(0, 0, 3), 5)
            assert torch.equal(drawn, make_table(dtype).detach()[torch.from_numpy(ids)])
        assert sampler.draw_embeddings(mix_seeds(0, 0, 0), 5).shape == (0, 5, WIDTH)


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 6), length=st.integers(1, 20), data=st.data())
def test_a_row_is_the_same_in_any_batch_order_and_length(
    name: str, rows: int, length: int, data: st.DataObject
) -> None:
    sampler = make_sampler(name)
    whole = sampler.draw_embeddings(mix_seeds(1, 0, rows), length)
    order = data.draw(st.lists(st.integers(0, rows - 1), min_size=1))
    shorter = data.draw(st.integers(1, length))
    part = sampler.draw_embeddings(mix_seeds(1, 0, rows)[order], shorter)
    assert torch.equal(part, whole[order, :shorter])


def test_uniform_values_are_24_exact_bits_rounded_to_the_dtype() -> None:
    seeds = mix_seeds(2, 0, 20)
    exact = make_sampler("uniform").draw_embeddings(seeds, 9)
    words = random_integers_numpy(seeds, 9 * WIDTH).astype(np.float64)
    expected = np.floor(words / 256) / 2**24
    assert np.array_equal(exact.numpy().astype(np.float64).reshape(20, -1), expected)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        drawn = make_sampler("uniform", dtype).draw_embeddings(seeds, 9)
        assert torch.equal(drawn, exact.to(dtype))


@settings(deadline=None)
@given(vocabulary=st.integers(1, WHOLE), seed=st.integers(0, 2**64 - 1))
def test_ids_are_the_exact_integers(vocabulary: int, seed: int) -> None:
    seeds = np.array([seed], dtype=np.uint64)
    words = random_integers_numpy(seeds, 9)[0].tolist()
    uniform = VocabularySampler(torch.empty(1, 1).expand(vocabulary, 1))
    expected = [word * vocabulary >> 32 for word in words]
    assert uniform.draw_ids(seeds, 9)[0].tolist() == expected
    counts = np.array([0, 5, WHOLE // 3, WHOLE // 3, WHOLE, WHOLE])
    unigram = UnigramSampler(torch.empty(6, 1), counts)
    expected = np.searchsorted(counts, words, side="right").tolist()
    assert unigram.draw_ids(seeds, 9)[0].tolist() == expected
    # The extreme integers hit the first and the last possible id.
    extremes = torch.tensor([0, WHOLE - 1])
    assert uniform.pick(extremes).tolist() == [0, vocabulary - 1]
    assert unigram.pick(extremes).tolist() == [1, 4]


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e6)).filter(
        lambda weights: weights.sum() > 1e-300
    )
)
def test_a_quantised_distribution_is_whole_and_keeps_every_possible_id(weights: Any) -> None:
    probabilities = weights / weights.sum()
    counts = np.diff(quantise_distribution(probabilities), prepend=0)
    assert counts.dtype == np.int64
    assert counts.sum() == WHOLE
    assert ((counts > 0) == (probabilities > 0)).all()
    possible = int((probabilities > 0).sum())
    assert (abs(counts - probabilities * WHOLE) <= possible + 2).all()


def test_quantised_counts_are_exact_where_they_can_be() -> None:
    assert quantise_distribution(np.array([1.0])).tolist() == [WHOLE]
    assert quantise_distribution(np.array([0.5, 0.0, 0.5])).tolist() == [2**31, 2**31, WHOLE]
    tiny = quantise_distribution(np.array([1.0, 5e-324]))
    assert tiny.tolist() == [WHOLE - 1, WHOLE]
    # The first of equal remainders takes what cannot be shared.
    third = np.diff(quantise_distribution(np.full(3, 1 / 3)), prepend=0)
    assert third.tolist() == [WHOLE // 3 + 1, WHOLE // 3, WHOLE // 3]


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.5, -0.1, 0.6], r"probabilities: got -0.1 for id 1, must be in \[0, 1\]"),
        ([0.5, float("nan")], "probabilities: got nan for id 1"),
        ([0.5, 0.4], "probabilities: got a sum of 0.9, must be 1"),
        ([0.0, 0.0], "probabilities: got a sum of 0.0, must be 1"),
        ([], r"probabilities: got shape \(0,\), must be \(V,\)"),
        ([[1.0]], r"probabilities: got shape \(1, 1\)"),
    ],
)
def test_what_is_no_distribution_is_named(probabilities: Any, message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        quantise_distribution(np.array(probabilities))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vocabulry", {}, r"'vocabulry' \(did you mean 'vocabulary'\?\)"),
        ("xyz", {}, "'xyz'; known are uniform, vocabulary, unigram"),
        ("unigram", {"thresholds": None}, "'unigram' needs the distribution of the token ids"),
        ("unigram", {"thresholds": make_thresholds()[:-1]}, r"got shape \(49,\), must be \(50,\)"),
        ("unigram", {"thresholds": make_thresholds() - 1}, "must not decrease and must end at 2"),
        ("unigram", {"thresholds": make_thresholds()[::-1]}, "must not decrease and must end at"),
        ("vocabulary", {"table": torch.zeros(4)}, r"embedding table: got torch\..* of shape"),
        ("vocabulary", {"table": torch.zeros(4, 2, dtype=torch.int64)}, "embedding table: got"),
        ("vocabulary", {"table": torch.zeros(0, 2)}, "embedding table: got"),
    ],
)
def test_what_makes_no_sampler_is_named(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        build_sampler(name, **{"table": make_table(), "thresholds": make_thresholds()} | changes)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("length", [0, -1, 1_000_001])
def test_wrong_lengths_and_seeds_are_named(name: str, length: int) -> None:
    sampler = make_sampler(name)
    with pytest.raises(SamplerError, match=rf"length: got {length}, must be in \[1, 1000000\]"):
        sampler.draw_embeddings(mix_seeds(0, 0, 1), length)
    with pytest.raises(SamplerError, match="seeds: got int64"):
        sampler.draw_embeddings(np.array([1]), 3)
