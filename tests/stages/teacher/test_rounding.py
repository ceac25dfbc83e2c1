"""A way to run the model is right within what its number format costs, and no further."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import make_language_model, make_short_task, make_tokenizer

from stages.checkpoints import load_tokenizer
from stages.lm import load_language_model, resolve_model
from stages.tasks import load_task
from stages.teacher import attention, forward
from stages.teacher.forward import FullPass, PackedPass, PrefixPass
from stages.teacher.teacher import Teacher

DTYPES = [torch.float32, torch.bfloat16]
CASES = [("llama", torch.float32), ("llama", torch.bfloat16), ("gpt2", torch.bfloat16)]
# The bundled model, whose weights are learned.
CASES += [pytest.param("reddit", torch.float32, marks=pytest.mark.slow)]


def make_subject(name: str, dtype: torch.dtype) -> Teacher:
    """A tiny model of a family, or the bundled one with one of its tasks."""
    if name != "reddit":
        tokenizer = make_tokenizer()
        model = make_language_model(name, len(tokenizer)).to(dtype)
        return Teacher(model, tokenizer, make_short_task())
    folder = resolve_model("mini")
    model = load_language_model(folder, "cpu", str(dtype).removeprefix("torch."))
    return Teacher(model, load_tokenizer(folder), load_task(name))


def shift_positions(patch: pytest.MonkeyPatch, steps: int) -> None:
    describe = forward.describe_rows

    def shift(*given: Any) -> tuple[attention.Rows, torch.Tensor]:
        rows, positions = describe(*given)
        return rows, positions + steps

    patch.setattr(forward, "describe_rows", shift)


def merge_rows(patch: pytest.MonkeyPatch) -> None:
    describe = forward.describe_rows

    def merge(*given: Any) -> tuple[attention.Rows, torch.Tensor]:
        rows, positions = describe(*given)
        one = tuple((1, count * length) for count, length in rows.groups)
        return replace(rows, groups=one), positions

    patch.setattr(forward, "describe_rows", merge)


def lose_token(patch: pytest.MonkeyPatch, number: int) -> None:
    begin = PackedPass.__init__

    def spoil(self: PackedPass, *arguments: Any) -> None:
        begin(self, *arguments)
        kept = self._attention.prefix
        for layer, (key, value) in kept.items():
            others = [n for n in range(key.shape[2]) if n != number % key.shape[2]]
            kept[layer] = key[:, :, others], value[:, :, others]

    patch.setattr(PackedPass, "__init__", spoil)


def leak_neighbour(patch: pytest.MonkeyPatch) -> None:
    """A row sees the last position of the row in front of it."""
    attend = attention.attend

    def spoil(q: Any, k: Any, v: Any, causal: bool, *others: Any, **named: Any) -> Any:
        if len(q) == 1 or "sees" in named:
            return attend(q, k, v, causal, *others, **named)
        k, v = (torch.cat([x.roll(1, 0)[:, :, -1:], x], dim=2) for x in (k, v))
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        scale = others[0] if others else named["scale"]
        scores = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        scores = scores.masked_fill(~(seen.tril(1) if causal else seen), -torch.inf)
        return (scores.softmax(-1) @ v.float()).to(v.dtype), scores.logsumexp(-1)

    patch.setattr(attention, "attend", spoil)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "positions by 1": functools.partial(shift_positions, steps=1),
    "positions by 4": functools.partial(shift_positions, steps=4),
    "prompt's first token": functools.partial(lose_token, number=0),
    "prompt's last token": functools.partial(lose_token, number=-1),
    "a neighbour's row": leak_neighbour,
    "rows of one length are one": merge_rows,
}


@pytest.mark.parametrize(("subject", "dtype"), CASES)
def test_right_passes_are_believed_and_faulty_ones_are_not(
    subject: str, dtype: torch.dtype
) -> None:
    teacher = make_subject(subject, dtype)
    packed, copied = teacher.passes
    assert isinstance(packed, PackedPass), teacher.fallbacks
    assert isinstance(copied, PrefixPass), teacher.fallbacks
    assert packed.trims == (subject != "gpt2")
    for name, plant in FAULTS.items():
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            teacher = make_subject(subject, dtype)
        assert [type(way) for way in teacher.passes] == [PrefixPass], name
        words = "logits are off by", "rows are not kept apart"
        if plant is not merge_rows:  # with words behind rows it cannot even be run
            assert any(word in reason for reason in teacher.fallbacks for word in words), name
        if name == "positions by 4":  # it is said in what the number format costs
            said, end = teacher.fallbacks[-1].split(" times what rounding to ")
            assert end == f"{str(dtype).removeprefix('torch.')} costs"
            times = float(said.split(", ")[1].replace(",", ""))
            assert times > (10_000 if dtype == torch.float32 else 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_prompt_token_that_copied_keys_lack_is_missed(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = PrefixPass.__init__

    def spoil(self: PrefixPass, model: Any, prefix: torch.Tensor) -> None:
        begin(self, model, prefix[:, 1:])

    monkeypatch.setattr(PrefixPass, "__init__", spoil)
    teacher = make_subject("llama", dtype)
    assert isinstance(teacher.passes[-1], FullPass)
    assert "prompt's keys and values: logits are off by" in teacher.fallbacks[-1]


@pytest.mark.parametrize(("subject", "dtype"), CASES)
def test_a_kernel_that_multiplies_leavings_by_0_mixes_no_rows(
    subject: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AMX does in bfloat16, whose blocks of keys are padded with what was there before."""
    attend = attention.attend

    def pad(q: Any, k: Any, v: Any, *others: Any, **named: Any) -> Any:
        output, sums = attend(q, k, v, *others, **named)
        return output + 0 * v.roll(1, 0)[:, :, -1:], sums

    monkeypatch.setattr(attention, "attend", pad)
    teacher = make_subject(subject, dtype)
    assert isinstance(teacher.forward_pass, PackedPass), teacher.fallbacks
    rows = teacher.table[:12].view(3, 4, -1).clone()
    rows[0] = torch.nan
    assert teacher.compute_class_logits(rows)[1].isnan().all(), "or this kernel is like any other"
