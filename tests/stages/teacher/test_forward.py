from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny import (
    LONGEST,
    draw_ids,
    make_language_model,
    make_short_task,
    make_teacher,
    make_tokenizer,
)
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from stages.devices import DTYPES
from stages.errors import ModelError
from stages.teacher import forward
from stages.teacher.capabilities import LIMITS, TURNS, find_layers, find_passes
from stages.teacher.forward import FullPass, PackedPass
from stages.teacher.teacher import Teacher


class TestReasons:
    @pytest.mark.parametrize(
        ("family", "reasons"),
        [
            ("llama", []),
            ("gpt2", [r"last positions only: "]),
            ("mistral", [r"only: .*sees 16 positions back.* up to 40", r"side by side: .*sees 16"]),
            ("bloom", [r"of BloomForCausalLM cannot be replaced"] * 2),
            ("gpt-oss", [r"its attention takes s_aux"] * 2),
            ("llama4-chunks", [r"logits are off by \d"] * 2),
            ("llama4-unturned", [r"counts positions over the whole batch"] * 2),
            (
                "mamba",
                [
                    r"the last layer has no attention of its own",
                    r"side by side: logits are off by \d",
                    r"prompt's keys and values: MambaForCausalLM keeps no keys and values",
                ],
            ),
        ],
    )
    def test_why_a_better_way_cannot_be_used_is_said(self, family: str, reasons: list[str]) -> None:
        teacher = make_teacher(family)
        assert len(teacher.fallbacks) == len(reasons)
        for said, wanted in zip(teacher.fallbacks, reasons, strict=True):
            assert re.search(wanted, said), said

    def test_what_is_done_is_said_and_without_a_prompt_none_is_run_anew(self) -> None:
        for family, wanted in WAYS.items():
            teacher = make_teacher(family)
            assert teacher.forward_pass.description == wanted
            assert isinstance(teacher.forward_pass, FullPass) == (family == "mamba")
        llama, mamba = (make_teacher(family, prompt="") for family in ("llama", "mamba"))
        assert llama.forward_pass.description.startswith("rows of all lengths")
        assert mamba.forward_pass.description == "rows of one length share a batch"
        assert not mamba.prefix_ids
        assert not any("prompt" in line for line in mamba.fallbacks)


WAYS = {
    "llama": "the prompt is run once, rows of all lengths share a batch without padding, the last "
    "layer runs for their last positions only",
    "gpt2": "the prompt is run once, rows of all lengths share a batch without padding",
    "bloom": "the prompt is run once, its keys and values are copied for every row",
    "mamba": "the prompt is run with every row, rows of one length share a batch",
}
STATEFUL = ("lfm2", "falcon-h1")
PACKABLE = ("llama", "gpt2", "gemma2-wide", "deepseek3")


class Odd(nn.Module):
    """A layer's MLP, and beside it something that looks at other positions."""

    def __init__(self, inner: nn.Module, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.kind == "mean":
            steps = torch.arange(1, hidden.shape[1] + 1).view(1, -1, 1)
            other = hidden.cumsum(dim=1) / steps
        elif self.kind == "first":
            other = hidden[:, :1]
        else:
            other = nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        return self.inner(hidden) + other


def make_odd(kind: str, layer: int, dtype: torch.dtype) -> PreTrainedModel:
    model = make_language_model("llama", len(make_tokenizer()))
    model.model.layers[layer].mlp = Odd(model.model.layers[layer].mlp, kind)
    return model.to(dtype)


class TestBelief:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize(
        ("kind", "layer"),
        # In the last layer a row's own neighbour is all that the last position could see.
        [("mean", 0), ("mean", 2), ("first", 1), ("first", 2), ("neighbour", 1)],
    )
    def test_a_model_that_looks_at_other_positions_by_itself_is_not_packed(
        self, kind: str, layer: int, dtype: torch.dtype
    ) -> None:
        tokenizer = make_tokenizer()
        teacher = Teacher(make_odd(kind, layer, dtype), tokenizer, make_short_task())
        assert not isinstance(teacher.forward_pass, PackedPass), teacher.forward_pass.description
        if dtype == torch.float32:  # in bfloat16 rounding may hide what the copied keys leave out
            assert isinstance(teacher.forward_pass, FullPass), teacher.forward_pass.description
            assert "off by" in teacher.fallbacks[-1]

    @pytest.mark.parametrize("family", [*STATEFUL, *PACKABLE])
    def test_in_bfloat16_no_more_is_believed_and_rounding_costs_nothing(self, family: str) -> None:
        tokenizer = make_tokenizer()
        model = make_language_model(family, len(tokenizer)).to(torch.bfloat16)
        way = Teacher(model, tokenizer, make_short_task()).forward_pass
        assert isinstance(way, PackedPass) == (family in PACKABLE), way.description
        assert getattr(way, "trims", False) == (family in PACKABLE and family != "gpt2")

    def test_answers_that_are_nan_prove_nothing(self) -> None:
        model = make_language_model("llama", len(make_tokenizer()))
        model.lm_head.weight.data.fill_(torch.nan)
        teacher = Teacher(model, make_tokenizer(), make_short_task())
        assert isinstance(teacher.forward_pass, FullPass)
        assert "off by nan" in teacher.fallbacks[0]

    def test_a_device_without_memory_is_no_reason_for_a_slower_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(PackedPass, "run", refuse)
        with pytest.raises((torch.OutOfMemoryError, ModelError)):
            make_teacher("llama")


def test_a_way_that_is_not_used_leaves_nothing_behind() -> None:
    for family in ("mistral", "mamba", "llama4-chunks", "diffllama", "bloom", "gpt-oss"):
        model = make_teacher(family).model
        assert model.config._attn_implementation in ("sdpa", "eager")
        assert not any(module._forward_pre_hooks for module in model.modules())
    hooks = [bool(m._forward_pre_hooks) for m in find_layers(make_teacher("gpt2").model)]
    assert not any(hooks), "gpt2 is packed, its last layer is not cut down"


def test_more_rows_than_a_kernel_takes_are_no_different(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_teacher("llama")
    inputs = teacher.table[draw_ids(7, 5, len(teacher.table))]
    wanted = teacher.compute_class_logits(inputs)
    monkeypatch.setattr(forward, "MOST_ROWS", 2)
    torch.testing.assert_close(teacher.compute_class_logits(inputs), wanted, atol=1e-5, rtol=0)


def test_the_last_layer_is_run_for_last_positions_only() -> None:
    teacher, seen = make_teacher("llama"), []
    for layer in find_layers(teacher.model):
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    ids = draw_ids(7, 9, len(teacher.table))
    teacher.compute_class_logits(teacher.table[ids])
    positions = 7 * (9 + len(teacher.suffix_ids))
    assert seen == [positions, positions, 7]


def test_a_model_of_one_layer_is_no_different_and_layers_are_found_by_their_number() -> None:
    config = make_language_model("llama", 300).config
    config.num_hidden_layers = 1
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    table = model.get_input_embeddings().weight
    with torch.inference_mode():
        (way, _), reasons = find_passes(model, table[None, :5], table[None, 5:7], table, LONGEST)
    assert isinstance(way, PackedPass) and way.trims and reasons == []
    model.config.num_hidden_layers = 99
    with pytest.raises(ModelError, match="LlamaForCausalLM has no list of its 99 layers"):
        find_layers(model)


def test_no_number_format_is_without_a_tolerance() -> None:
    assert {getattr(torch, name) for name in DTYPES} <= set(LIMITS) & set(TURNS)
