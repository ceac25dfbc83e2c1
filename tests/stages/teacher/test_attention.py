from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.teacher import attention as kernels
from stages.teacher.attention import NotPackableError, PackedAttention
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
    st.sampled_from([(None, None), (0.3, None), (0.3, 2.0), (None, 50.0)]),
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
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("known", [0, 40])
def test_rows_longer_than_the_queries_held_at_once_are_no_different(
    known: int, softcap: float | None
) -> None:
    with mock.patch.object(kernels, "QUERIES_AT_ONCE", 16):
        for found, wanted in run_packed(((2, 37), (1, 16), (1, 64)), known, softcap=softcap):
            torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 511, 512, 513, 1200])
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


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_scores_far_apart_neither_overflow_nor_vanish(scale: float) -> None:
    # exp(90) is beyond float32: only sums that stay logarithms get through.
    for found, wanted in run_packed(((3, 9),), 11, scale=scale):
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=0)


def test_bfloat16_is_merged_in_float32() -> None:
    rows, _ = describe_rows(((5, 7),), 11, torch.device("cpu"))
    halves = [draw(1, HEADS, size, WIDTH, seed=size).bfloat16() for size in (11, 35)]
    attention = PackedAttention()
    attention.attend(0, halves[0], halves[0], halves[0], None, None, None)
    attention.expect(rows)
    found = attention.attend(0, halves[1], halves[1], halves[1], None, None, None)
    assert found.dtype == torch.bfloat16
    for row in range(5):
        own = halves[1][0, :, row * 7 : row * 7 + 7]
        whole = torch.cat([halves[0][0], own], dim=1)
        wanted = reference(own, whole, whole, 11)
        torch.testing.assert_close(
            found[0, row * 7 : row * 7 + 7].double(), wanted, atol=0.03, rtol=0
        )


@pytest.mark.parametrize(("window", "fits"), [(None, True), (18, True), (17, False)])
def test_a_window_is_let_pass_where_no_position_looks_beyond_it(
    window: int | None, fits: bool
) -> None:
    before, own = draw(1, HEADS, 11, WIDTH), draw(1, HEADS, 8, WIDTH)
    attention = PackedAttention()
    attention.attend(0, before, before, before, None, None, window)
    attention.expect(describe_rows(((1, 1), (1, 7)), 11, torch.device("cpu"))[0])
    if fits:
        attention.attend(0, own, own, own, None, None, window)
        return
    with pytest.raises(NotPackableError, match=r"sees 17 positions back, .* are up to 18"):
        attention.attend(0, own, own, own, None, None, window)
