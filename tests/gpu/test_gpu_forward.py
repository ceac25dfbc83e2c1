"""Packed rows on the device: right against plain forward passes, and found out where wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from shaped import SHAPES, VOCABULARY, make_shaped
from transformers import PreTrainedModel

from stages.teacher import attention
from stages.teacher import forward
from stages.teacher import kernels
from stages.teacher.forward import PackedPass, choose_pass, describe_rows, find_layers, keeps_rows_apart
from stages.lm.vocabulary import embed_vocabulary

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BOUND = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Largest difference between two ways' logits by rounding alone, as a share of the largest one."""

MODELS = [(family, 64) for family in SHAPES]
# Narrow heads; a width that no fused kernel of CUDA takes; and Gemma's own, the widest of them.
MODELS += [("llama", 8), ("gpt2", 8), ("llama", 4), ("gemma", 256)]

KNOWN, SUFFIX, LONGEST = 11, 2, 140
FEW = ((3, 1), (2, 7), (5, 2))
"""How many rows of which length, in one batch."""
ROWS = (*FEW, (1, LONGEST), (2, 33))
"""The same, one of them longer than a kernel's tile."""


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest, device: str) -> torch.dtype:
    found: torch.dtype = request.param
    if device == "cpu" and found == torch.float16:
        pytest.skip("bfloat16 stands in for the processor's slow float16")
    return found


def draw_rows(
    known: int, sizes: tuple[tuple[int, int], ...] = FEW
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Token ids of the prefix, shape (1, P), and of the rows of each length, (B, T)."""
    generator = torch.Generator().manual_seed(7)
    prefix = torch.randint(VOCABULARY, (1, known), generator=generator)
    return prefix, [torch.randint(VOCABULARY, size, generator=generator) for size in sizes]


@torch.inference_mode()
def answer_plainly(
    model: PreTrainedModel, prefix: torch.Tensor, rows: list[torch.Tensor]
) -> torch.Tensor:
    """What anyone's forward pass over whole inputs says at their ends, in the same order."""
    found = []
    for part in rows:
        ids = torch.cat([prefix.expand(len(part), -1), part], dim=1).to(model.device)
        found.append(model(input_ids=ids, use_cache=False).logits[:, -1])
    return torch.cat(found)


def measure_distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, as a share of the largest logit; infinite where one is NaN or infinite."""
    apart = (found.float() - wanted.float()).abs().max() / wanted.float().abs().max()
    return float(apart.nan_to_num(torch.inf))


@torch.inference_mode()
@pytest.mark.parametrize(("family", "width"), MODELS)
def test_packed_rows_are_answered_as_by_a_plain_forward_pass(
    family: str, width: int, dtype: torch.dtype, device: str
) -> None:
    model = make_shaped(family, width, dtype, device)
    table = embed_vocabulary(model)
    for known in (KNOWN, 0):
        prefix, rows = draw_rows(known, ROWS)
        wanted = answer_plainly(model, prefix, rows)
        prompt, suffix = table[prefix.to(device)], table[None, :SUFFIX]
        way, reasons = choose_pass(model, prompt, suffix, table, LONGEST)
        assert isinstance(way, PackedPass), reasons
        assert way.trims == (family != "gpt2"), reasons
        inputs = [table[part.to(device)] for part in rows]
        apart = measure_distance(way.run(inputs), wanted)
        print(f"{family} {width} {dtype} known {known}: {apart:.2g}")
        assert apart < BOUND[dtype]
        way.undo()
        assert torch.equal(answer_plainly(model, prefix, rows), wanted)


def change_prefix(part: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Turn one layer's keys (0) or values (1) of the prompt around."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        begin = PackedPass.__init__

        def spoil(self: PackedPass, *arguments: Any) -> None:
            begin(self, *arguments)
            self._attention.prefix[1][part].neg_()

        patch.setattr(PackedPass, "__init__", spoil)

    return plant


def change_rows(change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Have rows lie otherwise than they are described."""
    return lambda patch: patch.setattr(
        forward, "describe_rows", lambda *given: change(*describe_rows(*given))
    )


def merge(rows: attention.Rows, positions: torch.Tensor) -> tuple[attention.Rows, torch.Tensor]:
    """Take the rows of one length for one row."""
    one = tuple((1, count * length) for count, length in rows.groups)
    return replace(rows, groups=one), positions


def look_ahead(patch: pytest.MonkeyPatch) -> None:
    """Let a position see those behind it."""
    attend = kernels.attend
    patch.setattr(kernels, "attend", lambda q, k, v, _, *others: attend(q, k, v, False, *others))


FAULTS = {
    "prompt's keys": change_prefix(0),
    "prompt's values": change_prefix(1),
    "order of the rows": change_rows(lambda rows, at: (replace(rows, ends=rows.ends.flip(0)), at)),
    "positions": change_rows(lambda rows, at: (rows, at + 5)),
    "rows see each other": change_rows(merge),
    "positions see ahead": look_ahead,
}


@torch.inference_mode()
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_planted_fault_is_found(
    family: str, fault: str, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_shaped(family, 32, dtype, device)
    table = embed_vocabulary(model)
    prefix, rows = draw_rows(KNOWN)
    wanted = answer_plainly(model, prefix, rows)
    prompt, suffix = table[prefix.to(device)], table[None, :SUFFIX]
    FAULTS[fault](monkeypatch)
    way, reasons = choose_pass(model, prompt, suffix, table, 24)
    assert not isinstance(way, PackedPass), f"{fault}: {way.words}"
    # And by what the other test measures.
    way = PackedPass(model, prompt, None)
    found = way.run([table[part.to(device)] for part in rows])
    apart = measure_distance(found, wanted)
    print(f"{family} {dtype} {fault}: {apart:.2g}; {reasons}")
    assert apart > 2 * BOUND[dtype]


@torch.inference_mode()
def test_rows_that_see_each_other_are_told_by_what_is_no_number(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_shaped("llama", 64, dtype, device)
    table = embed_vocabulary(model)
    prefix, rows = draw_rows(KNOWN)
    inputs = [table[part.to(device)] for part in rows]
    for last in (find_layers(model)[-1], None):
        way = PackedPass(model, table[prefix.to(device)], last)
        assert keeps_rows_apart(way, inputs)
        way.undo()
    change_rows(merge)(monkeypatch)
    assert not keeps_rows_apart(PackedPass(model, table[prefix.to(device)], None), inputs)


OUTPUTS = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@torch.inference_mode()
@pytest.mark.parametrize("width", [4, 8, 64, 128, 256])
def test_every_kernel_gives_the_attention_and_its_sums(
    width: int, dtype: torch.dtype, device: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    for batch, asked, seen, causal in (
        (1, 1, 1, True),
        (70, 5, 5, True),
        (1, 200, 200, True),
        (1, 201, 11, False),
        (65, 1, 129, False),
    ):
        drawn = [
            torch.randn(batch, 4, length, width, generator=generator).to(dtype)
            for length in (asked, seen, seen)
        ]
        output, sums = kernels.attend(*(x.to(device) for x in drawn), causal, None, None)
        first = 0 if causal else None
        exact = kernels._attend_plainly(*(x.double() for x in drawn), first, None, None)
        assert output.dtype == dtype
        assert sums.shape == output.shape[:3]
        assert sums.dtype == torch.float32
        torch.testing.assert_close(output.cpu().double(), exact[0], atol=OUTPUTS[dtype], rtol=0)
        torch.testing.assert_close(sums.cpu(), exact[1].float(), atol=2e-3, rtol=0)
