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
FAMILIES = ["llama", "qwen2", "gemma", "gpt2"]
CASES = [(name, dtype) for name in ("llama", "gpt2") for dtype in DTYPES]
CASES += [("reddit", torch.float32)]
MORE = [(name, dtype) for name in (*FAMILIES, "imdb", "ag_news", "reddit") for dtype in DTYPES]
CASES += [pytest.param(*each, marks=pytest.mark.slow) for each in MORE if each not in CASES]

Attend = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def make_subject(name: str, dtype: torch.dtype) -> Teacher:
    """A tiny model of a family, or the bundled one with one of its tasks."""
    if name in FAMILIES:
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


def lose_token(patch: pytest.MonkeyPatch, number: int) -> None:
    begin = PackedPass.__init__

    def spoil(self: PackedPass, *arguments: Any) -> None:
        begin(self, *arguments)
        kept = self._attention.prefix
        for layer, (key, value) in kept.items():
            others = [n for n in range(key.shape[2]) if n != number % key.shape[2]]
            kept[layer] = key[:, :, others], value[:, :, others]

    patch.setattr(PackedPass, "__init__", spoil)


def mask_otherwise(patch: pytest.MonkeyPatch, last_seen: int) -> None:
    """A position sees up to so many behind itself, or in front of itself where negative."""
    attend = attention.attend

    def spoil(q: Any, k: Any, v: Any, causal: bool, *others: Any, **named: Any) -> Any:
        if not causal:
            return attend(q, k, v, causal, *others, **named)
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(last_seen)
        mask[:, 0] = True
        return attend_masked(q, k, v, mask, others[0])

    patch.setattr(attention, "attend", spoil)


def leak_neighbour(patch: pytest.MonkeyPatch) -> None:
    """A row sees the last position of the row in front of it."""
    attend = attention.attend

    def spoil(q: Any, k: Any, v: Any, causal: bool, *others: Any, **named: Any) -> Any:
        if len(q) == 1 or "sees" in named:
            return attend(q, k, v, causal, *others, **named)
        k, v = (torch.cat([x.roll(1, 0)[:, :, -1:], x], dim=2) for x in (k, v))
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        scale = others[0] if others else named["scale"]
        return attend_masked(q, k, v, mask.tril(1) if causal else mask, scale)

    patch.setattr(attention, "attend", spoil)


def attend_masked(q: Any, k: Any, v: Any, mask: torch.Tensor, scale: float | None) -> Any:
    scores = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v.float()).to(v.dtype), scores.logsumexp(-1)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "positions by 1": functools.partial(shift_positions, steps=1),
    "positions by 4": functools.partial(shift_positions, steps=4),
    "prompt's first token": functools.partial(lose_token, number=0),
    "a token within the prompt": functools.partial(lose_token, number=5),
    "prompt's last token": functools.partial(lose_token, number=-1),
    "mask one too wide": functools.partial(mask_otherwise, last_seen=1),
    "mask one too narrow": functools.partial(mask_otherwise, last_seen=-1),
    "a neighbour's row": leak_neighbour,
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
        assert any(word in reason for reason in teacher.fallbacks for word in words), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("subject", ["llama", "reddit"])
def test_a_prompt_token_that_copied_keys_lack_is_missed(
    subject: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = PrefixPass.__init__

    def spoil(self: PrefixPass, model: Any, prefix: torch.Tensor) -> None:
        begin(self, model, prefix[:, 1:])

    monkeypatch.setattr(PrefixPass, "__init__", spoil)
    teacher = make_subject(subject, dtype)
    assert isinstance(teacher.passes[-1], FullPass)
    assert "prompt's keys and values: logits are off by" in teacher.fallbacks[-1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("subject", ["llama", "gpt2", "reddit"])
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


def test_what_is_off_is_said_in_what_the_number_format_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shift_positions(monkeypatch, 4)
    for dtype, least in ((torch.float32, 10_000), (torch.bfloat16, 2)):
        reason = make_subject("reddit", dtype).fallbacks[0]
        said, name = reason.split(" times what rounding to ")
        assert name == f"{str(dtype).removeprefix('torch.')} costs"
        assert float(said.split(", ")[1].replace(",", "")) > least


def test_only_a_packed_pass_is_left_out_where_rows_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    describe = forward.describe_rows

    def merge(*given: Any) -> tuple[attention.Rows, torch.Tensor]:
        rows, positions = describe(*given)
        one = tuple((1, count * length) for count, length in rows.groups)
        return replace(rows, groups=one), positions

    monkeypatch.setattr(forward, "describe_rows", merge)
    for dtype in DTYPES:
        assert isinstance(make_subject("llama", dtype).forward_pass, PrefixPass)
