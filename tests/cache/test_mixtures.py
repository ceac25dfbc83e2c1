from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.draw.mixtures import MixtureSampler, mix_samplers, parse_mixture
from cache.draw.philox import mix_seeds
from cache.draw.samplers import (
    SAMPLERS,
    Sampler,
    TokenSampler,
    build_sampler,
    quantise_distribution,
)
from cache.errors import SamplerError

TABLE = torch.arange(300, dtype=torch.float32).view(50, 6)
THRESHOLDS = quantise_distribution(np.arange(1, 51) / np.arange(1, 51).sum())


def build(text: str) -> Sampler:
    mixture = parse_mixture(text, SAMPLERS)
    parts = [build_sampler(name, table=TABLE, thresholds=THRESHOLDS) for name in mixture.names]
    return mix_samplers(mixture, parts)


@given(st.permutations(["uniform", "vocabulary", "unigram"]), st.integers(1, 98))
def test_there_is_one_way_to_write_a_mixture(names: list[str], hundredths: int) -> None:
    shares = [hundredths, 1, 99 - hundredths]
    text = ", ".join(f"{name} = {share / 100}" for name, share in zip(names, shares, strict=True))
    mixture = parse_mixture(text, SAMPLERS)
    assert mixture.names == tuple(sorted(names))
    assert sum(share for _, share in mixture.parts) == Decimal(1)
    for again in (mixture.text, ",".join(reversed(mixture.text.split(",")))):
        assert parse_mixture(again, SAMPLERS) == mixture


def test_one_sampler_is_its_name() -> None:
    for text in ("unigram", "unigram=1", " unigram = 1.00"):
        assert parse_mixture(text, SAMPLERS).text == "unigram"
        assert not isinstance(build(text), MixtureSampler)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "unknown sampler ''"),
        ("unigam", "did you mean 'unigram'"),
        ("unigram,vocabulary", "unigram=0.5"),
        ("unigram=0.5,vocabulary", "vocabulary=0.5"),
        ("unigram=0.5,unigram=0.5", "named twice"),
        ("unigram=0.5,vocabulary=0.4", "sum to 0.9"),
        ("unigram=half,vocabulary=0.5", "got 'half'"),
        ("unigram=nan,vocabulary=0.5", "must be in (0, 1]"),
        ("unigram=0,vocabulary=1", "must be in (0, 1]"),
        ("unigram=,vocabulary=1", "got ''"),
    ],
)
def test_what_is_no_mixture_is_refused(text: str, part: str) -> None:
    with pytest.raises(SamplerError) as caught:
        parse_mixture(text, SAMPLERS)
    assert part in str(caught.value)


def test_rows_come_from_their_own_sampler_in_any_batch() -> None:
    sampler = build("vocabulary=0.25,unigram=0.75")
    assert isinstance(sampler, TokenSampler)
    seeds = mix_seeds(3, 0, 4000)
    ids, drawn = sampler.draw_ids(seeds, 5), sampler.draw_embeddings(seeds, 5)
    assert torch.equal(drawn, TABLE[torch.from_numpy(ids)])
    single = {name: build(name).draw_ids(seeds, 5) for name in ("vocabulary", "unigram")}
    from_unigram = (ids == single["unigram"]).all(axis=1)
    assert ((ids == single["vocabulary"]).all(axis=1) | from_unigram).all()
    assert abs(from_unigram.mean() - 0.75) < 0.03
    part = seeds[17:90:3]
    assert (sampler.draw_ids(part, 5) == ids[17:90:3]).all()


def test_a_mixture_with_vectors_has_no_ids() -> None:
    sampler = build("uniform=0.5,vocabulary=0.5")
    assert not isinstance(sampler, TokenSampler)
    seeds = mix_seeds(3, 0, 64)
    drawn = sampler.draw_embeddings(seeds, 4)
    known = (TABLE[None, None] == drawn[:, :, None]).all(dim=-1).any(dim=-1).all(dim=1)
    assert 0 < int(known.sum()) < 64 and sampler.width == 6
    assert sampler.name == "uniform=0.5,vocabulary=0.5"
