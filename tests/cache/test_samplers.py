"""Samplers: what they draw is exact, follows from the seed alone and has the right distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.draw import samplers
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


def draw_uniform_ids(seeds: np.ndarray, length: int, vocabulary: int) -> np.ndarray:
    return VocabularySampler(torch.empty(1, 1).expand(vocabulary, 1)).draw_ids(seeds, length)


def make_sampler(name: str, dtype: torch.dtype = torch.float32) -> Sampler:
    return build_sampler(name, table=make_table(dtype), thresholds=make_thresholds())


@pytest.mark.parametrize("name", SAMPLERS)
def test_embeddings_have_the_shape_dtype_and_no_gradient(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        sampler = make_sampler(name, dtype)
        drawn = sampler.draw_embeddings(mix_seeds(0, 0, 3), 5)
        assert (sampler.name, sampler.width) == (name, WIDTH)
        assert drawn.shape == (3, 5, WIDTH)
        assert drawn.dtype == dtype
        assert not drawn.requires_grad
        assert isinstance(sampler, TokenSampler) == (name != "uniform")
        assert sampler.draw_embeddings(mix_seeds(0, 0, 0), 5).shape == (0, 5, WIDTH)


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 6), length=st.integers(1, 20), data=st.data())
def test_a_row_is_the_same_in_any_batch_order_and_length(
    name: str, rows: int, length: int, data: st.DataObject
) -> None:
    sampler = make_sampler(name)
    whole = sampler.draw_embeddings(mix_seeds(1, 0, rows), length)
    first = data.draw(st.integers(0, rows - 1))
    shorter = data.draw(st.integers(1, length))
    part = sampler.draw_embeddings(mix_seeds(1, first, rows - first), shorter)
    assert torch.equal(part, whole[first:, :shorter])
    backwards = sampler.draw_embeddings(mix_seeds(1, 0, rows)[::-1].copy(), length)
    assert torch.equal(backwards, whole.flip(0))


def test_uniform_values_are_24_exact_bits() -> None:
    seeds = mix_seeds(2, 0, 4)
    drawn = make_sampler("uniform").draw_embeddings(seeds, 7)
    words = random_integers_numpy(seeds, 7 * WIDTH).astype(np.float64)
    expected = np.floor(words / 256) / 2**24
    assert np.array_equal(drawn.numpy().astype(np.float64).reshape(4, -1), expected)


@given(st.integers(1, 300), st.lists(st.integers(0, WHOLE - 1), min_size=1))
def test_a_gpu_picks_the_ids_that_a_cpu_picks(vocabulary: int, words: list[int]) -> None:
    sampler = VocabularySampler(torch.empty(1, 1).expand(vocabulary * 10**7, 1))
    picked = sampler.pick(torch.tensor(words))
    assert picked.tolist() == [word * vocabulary * 10**7 >> 32 for word in words]
    counts = np.array([0, 5, WHOLE // 3, WHOLE // 3, WHOLE])
    picked = UnigramSampler(torch.empty(5, 1), counts).pick(torch.tensor(words))
    assert picked.tolist() == np.searchsorted(counts, words, side="right").tolist()


def test_uniform_is_the_float32_draw_rounded_to_the_dtype() -> None:
    seeds = mix_seeds(2, 0, 20)
    exact = make_sampler("uniform").draw_embeddings(seeds, 9)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        drawn = make_sampler("uniform", dtype).draw_embeddings(seeds, 9)
        assert torch.equal(drawn, exact.to(dtype))
        assert drawn.max() <= 1


def test_uniform_has_the_moments_of_a_uniform() -> None:
    drawn = make_sampler("uniform").draw_embeddings(mix_seeds(0, 0, 64), 200).double()
    assert 0 <= drawn.min() < 1e-3
    assert 1 - 1e-3 < drawn.max() < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(drawn.var()) == pytest.approx(1 / 12, abs=0.002)
    # Neighbouring coordinates, positions and rows have nothing to do with each other.
    centred = drawn - 0.5
    for axis in range(3):
        low = centred.narrow(axis, 0, centred.shape[axis] - 1)
        high = centred.narrow(axis, 1, centred.shape[axis] - 1)
        assert abs(float((low * high).mean() * 12)) < 0.02


@pytest.mark.parametrize("name", ["vocabulary", "unigram"])
def test_token_embeddings_are_rows_of_the_table_at_the_ids(name: str) -> None:
    seeds = mix_seeds(3, 0, 8)
    ids = []
    for dtype in (torch.float32, torch.bfloat16):
        sampler = make_sampler(name, dtype)
        assert isinstance(sampler, TokenSampler)
        ids.append(sampler.draw_ids(seeds, 11))
        assert ids[-1].dtype == np.int64
        drawn = sampler.draw_embeddings(seeds, 11)
        assert torch.equal(drawn, make_table(dtype).detach()[torch.from_numpy(ids[-1])])
    assert np.array_equal(ids[0], ids[1])


@settings(deadline=None)
@given(vocabulary=st.integers(1, WHOLE), seed=st.integers(0, 2**64 - 1))
def test_uniform_ids_are_the_exact_integers(vocabulary: int, seed: int) -> None:
    seeds = np.array([seed], dtype=np.uint64)
    words = random_integers_numpy(seeds, 9)[0].tolist()
    drawn = draw_uniform_ids(seeds, 9, vocabulary)[0].tolist()
    assert drawn == [word * vocabulary >> 32 for word in words]
    assert max(drawn) < vocabulary


def test_uniform_ids_are_uniform() -> None:
    counts = np.bincount(draw_uniform_ids(mix_seeds(0, 0, 100), 1000, 97).ravel(), minlength=97)
    chi_square = float(((counts - 1e5 / 97) ** 2 / (1e5 / 97)).sum())
    assert 40 < chi_square < 170  # 96 degrees of freedom: beyond 5 sigma


def test_unigram_ids_follow_the_distribution() -> None:
    thresholds = make_thresholds()
    sampler = UnigramSampler(make_table(), thresholds)
    ids = sampler.draw_ids(mix_seeds(0, 0, 100), 1000)
    counts = np.bincount(ids.ravel(), minlength=VOCABULARY)
    assert counts[10] == 0
    expected = np.diff(thresholds, prepend=0) / WHOLE * 1e5
    seen = expected > 0
    chi_square = float(((counts - expected)[seen] ** 2 / expected[seen]).sum())
    assert 15 < chi_square < 100  # 48 degrees of freedom


def test_the_extreme_integers_hit_the_first_and_the_last_possible_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extremes = np.array([[0, WHOLE - 1]], dtype=np.uint32)
    monkeypatch.setattr(samplers, "random_integers_numpy", lambda *_: extremes)
    thresholds = quantise_distribution(np.array([0.0, 0.5, 0.0, 0.5, 0.0]))
    sampler = UnigramSampler(make_table()[:5], thresholds)
    assert sampler.draw_ids(mix_seeds(0, 0, 1), 2).tolist() == [[1, 3]]
    assert draw_uniform_ids(mix_seeds(0, 0, 1), 2, 7).tolist() == [[0, 6]]


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e6)).filter(
        lambda weights: weights.sum() > 1e-300
    )
)
def test_a_quantised_distribution_is_whole_and_keeps_every_possible_id(
    weights: np.ndarray,
) -> None:
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


def test_an_unknown_sampler_is_named_with_the_nearest() -> None:
    with pytest.raises(SamplerError, match=r"'vocabulry' \(did you mean 'vocabulary'\?\)"):
        build_sampler("vocabulry", table=make_table())
    with pytest.raises(SamplerError, match="'xyz'; known are uniform, vocabulary, unigram"):
        build_sampler("xyz", table=make_table())


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (None, "'unigram' needs the distribution of the token ids"),
        (make_thresholds()[:-1], r"thresholds: got shape \(49,\), must be \(50,\)"),
        (make_thresholds() - 1, "must not decrease and must end at 2"),
        (make_thresholds()[::-1], "must not decrease and must end at 2"),
    ],
)
def test_thresholds_that_do_not_fit_are_named(thresholds: Any, message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        build_sampler("unigram", table=make_table(), thresholds=thresholds)


@pytest.mark.parametrize(
    "table", [torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(0, 2)]
)
def test_what_is_no_embedding_table_is_named(table: torch.Tensor) -> None:
    with pytest.raises(SamplerError, match=r"embedding table: got torch\..* of shape"):
        build_sampler("vocabulary", table=table)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("length", [0, -1, 1_000_001])
def test_wrong_lengths_and_seeds_are_named(name: str, length: int) -> None:
    sampler = make_sampler(name)
    with pytest.raises(SamplerError, match=rf"length: got {length}, must be in \[1, 1000000\]"):
        sampler.draw_embeddings(mix_seeds(0, 0, 1), length)
    with pytest.raises(SamplerError, match="seeds: got int64"):
        sampler.draw_embeddings(np.array([1]), 3)
