from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.teacher import attention as kernels
from stages.teacher.attention import PackedAttention
from stages.teacher.forward import describe_rows

HEADS, WIDTH = 4, 8


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: int,
    scale: float | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """One softmax in float64: query i of (H, Q, D) sees keys up to ``seen`` + i of (H', K, D)."""
    query, key, value = query.double(), key.double(), value.double()
    shared = len(query) // len(key)
    key, value = (tensor.repeat_interleave(shared, dim=0) for tensor in (key, value))
    scores = query @ key.transpose(1, 2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = torch.arange(key.shape[1]) > seen + torch.arange(query.shape[1])[:, None]
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value).transpose(0, 1)


def run_packed(
    groups: tuple[tuple[int, int], ...],
    known: int,
    key_heads: int = HEADS,
    value_width: int = WIDTH,
    ends_only: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what a row's positions are given, and what they should be, (positions, H, D_v)."""
    count = sum(rows * length for rows, length in groups)
    query = draw(1, HEADS, count, WIDTH, seed=1)
    key, value = draw(1, key_heads, count, WIDTH, seed=2), draw(1, key_heads, count, value_width)
    before = draw(1, key_heads, known, WIDTH, seed=3), draw(1, key_heads, known, value_width)
    attention = PackedAttention()
    if known:
        asked = draw(1, HEADS, known, WIDTH, seed=4)
        found = attention.attend(0, asked, *before, scale, softcap, None)
        yield found[0], reference(asked[0], before[0][0], before[1][0], 0, scale, softcap)
    rows, _ = describe_rows(groups, known, torch.device("cpu"))
    attention.expect(rows)
    asked = query
    if ends_only:
        attention._last, asked = (key, value), query[:, :, rows.ends]
    found = attention.attend(0, asked, key, value, scale, softcap, None)[0]
    begin = number = 0
    for rows_of_one, length in groups:
        for _ in range(rows_of_one):
            own = slice(begin, begin + length)
            wanted = reference(
                query[0, :, own],
                torch.cat([before[0][0], key[0, :, own]], dim=1),
                torch.cat([before[1][0], value[0, :, own]], dim=1),
                known,
                scale,
                softcap,
            )
            yield (found[number], wanted[-1]) if ends_only else (found[own], wanted)
            begin, number = begin + length, number + 1


groups = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=4)


@settings(deadline=None)
@given(
    groups.map(tuple),
    st.sampled_from([0, 1, 11]),
    st.sampled_from([HEADS, 2, 1]),
    st.sampled_from([WIDTH, 5]),
    st.booleans(),
    # exp(90), of a scale of 30, is beyond float32: only sums that stay logarithms get through.
    st.sampled_from([(None, None), (0.3, None), (0.3, 2.0), (None, 50.0), (30.0, None)]),
)
def test_it_is_one_softmax_over_prefix_and_row(
    groups: tuple[tuple[int, int], ...],
    known: int,
    key_heads: int,
    value_width: int,
    ends_only: bool,
    scores: tuple[float | None, float | None],
) -> None:
    pairs = list(run_packed(groups, known, key_heads, value_width, ends_only, *scores))
    assert len(pairs) == sum(rows for rows, _ in groups) + bool(known)
    for found, wanted in pairs:
        atol = 1e-4 if scores[0] == 30.0 else 1e-5
        torch.testing.assert_close(found.double(), wanted, atol=atol, rtol=0)


def test_rows_longer_than_the_queries_held_at_once_are_no_different() -> None:
    with mock.patch.object(kernels, "QUERIES_AT_ONCE", 16):
        for known, softcap in product((0, 40), (None, 30.0)):
            for found, wanted in run_packed(((2, 37), (1, 16), (1, 64)), known, softcap=softcap):
                torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 512, 513])
def test_the_fused_kernel_and_the_plain_way_agree_on_outputs_and_sums(
    size: int, causal: bool
) -> None:
    query, key, value = (draw(2, HEADS, size, WIDTH, seed=number) for number in range(3))
    fused = kernels.attend(query, key, value, causal, 0.4, None)
    # A bound that no score comes near changes nothing but the way.
    plain = kernels.attend(query, key, value, causal, 0.4, 1e6)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one.float(), other, atol=1e-4, rtol=1e-4)
    scores = (query @ key.transpose(-1, -2)).double() * 0.4
    if causal:
        scores.masked_fill_(torch.ones(size, size).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(fused[1].double(), scores.logsumexp(-1), atol=1e-5, rtol=1e-5)
