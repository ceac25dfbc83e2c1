from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from gpus import pretend_gpus
from tiny import make_language_model, write_language_model

from stages.devices import DTYPES
from stages.errors import ModelError
from stages.lm import choose_attention, load_language_model
from stages.lm import model as model_module


@pytest.mark.parametrize("family", ["gemma2", "mamba"])
def test_a_family_without_fused_attention_is_loaded_all_the_same(
    family: str, tmp_path: Path
) -> None:
    folder = write_language_model(tmp_path, family)
    assert choose_attention(folder) == "eager"
    model = load_language_model(folder, "cpu", "float32")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_is_loaded_in_the_format_asked_for_on_one_device_without_hooks(llm: Path) -> None:
    assert choose_attention(llm) == "sdpa"
    for name in DTYPES:
        model = load_language_model(llm, "cpu", name)
        assert model.dtype == getattr(torch, name)
        assert not any(hasattr(module, "_hf_hook") for module in model.modules())


def test_memory_that_runs_out_before_or_while_a_model_is_loaded_is_said(
    llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, free=(0.05,))
    with pytest.raises(ModelError, match=r"does not fit on cuda: it needs 0\.06 GiB in float32"):
        load_language_model(llm, "cuda", "float32")

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pretend_gpus(monkeypatch, free=(80,))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(ModelError, match=r"its memory ran out .* fit: device cpu"):
        load_language_model(llm, "cuda", "float32")


class TestSplit:
    """A model in parts, which accelerate runs one after another."""

    NAMES = ("embed_tokens", "layers.0", "layers.1", "layers.2", "norm", "rotary_emb")
    PARTS: ClassVar[dict[str, str]] = {f"model.{name}": "cpu" for name in NAMES}
    PARTS |= {"model.layers.1": "disk", "lm_head": "cpu"}

    def test_it_answers_as_the_whole_does(
        self, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = load_language_model(llm, "cpu", "float32")
        placement = {"device_map": self.PARTS, "offload_folder": str(tmp_path)}
        load = model_module.load_weights
        monkeypatch.setattr(
            model_module, "load_weights", lambda *given, **own: load(*given, **own | placement)
        )
        split = load_language_model(llm, "cpu", "float32")
        apart = {name for name, weight in split.named_parameters() if weight.is_meta}
        assert {name.rsplit(".layers.")[1][0] for name in apart} == {"1"}
        assert split.get_input_embeddings().weight.device.type == "cpu"
        ids = torch.randint(0, 300, (4, 20), generator=torch.manual_seed(0))
        inputs = whole.get_input_embeddings()(ids)
        with torch.inference_mode():
            expected = whole(inputs_embeds=inputs).logits
            assert torch.equal(split(inputs_embeds=inputs).logits, expected)

    def test_all_gpus_and_nothing_else_get_their_share(
        self, llm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, Any] = {}

        def load(kind: Any, source: str, what: str, **options: Any) -> torch.nn.Module:
            asked.update(options)
            model = make_language_model("llama", 300)
            model.hf_device_map = {"model": 0, "lm_head": places[1]}
            return model

        pretend_gpus(monkeypatch, free=(9, 18))
        monkeypatch.setattr(model_module, "load_weights", load)
        places: list[Any] = [0, 1]
        load_language_model(llm, "all", "bfloat16")
        assert asked["device_map"] == "auto"
        assert asked["max_memory"] == {0: 8 * 2**30, 1: 16 * 2**30}
        places[1] = "disk"
        with pytest.raises(ModelError, match=r"on the CUDA devices together: .* memory ran out"):
            load_language_model(llm, "all", "bfloat16")


def test_no_kernel_is_fetched(llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for what a model names nor by the package that does so."""
    copy = Path(shutil.copytree(llm, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    named = {"attn_implementation": "some/kernel", "_attn_implementation": "some/kernel"}
    named |= {"_attn_implementation_internal": "some/kernel", "use_kernels": "yes"}
    (copy / "config.json").write_text(json.dumps(config | named))
    model = load_language_model(copy, "cpu", "float32")
    assert model.config._attn_implementation == "sdpa"
    assert model.use_kernels is False
    monkeypatch.setattr("transformers.utils.is_kernels_available", lambda: True)
    with pytest.raises(ModelError, match="pip uninstall kernels"):
        load_language_model(llm, "cpu", "float32")
