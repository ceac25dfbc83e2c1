from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from gpus import pretend_gpus
from tiny import write_language_model

from stages.devices import ALL
from stages.errors import ModelError, SettingError
from stages.lm import check_quantisation, load_language_model, quantisation, resolve_model
from stages.lm.quantisation import divide_layers, make_quantisation


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_weights_answer_nearly_as_the_bundled_model_does(dtype: str) -> None:
    folder, before = resolve_model("mini"), torch.get_float32_matmul_precision()
    plain = load_language_model(folder, "cpu", "float32")
    small = load_language_model(folder, "cpu", dtype, "int8")
    layers = divide_layers(folder, "int8")[0]
    for name, module in small.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert (name in layers) == (name != "lm_head")
            stored = getattr(module.weight, "qdata", module.weight)
            assert stored.dtype == (torch.int8 if name in layers else getattr(torch, dtype))
    ids = torch.randint(0, plain.config.vocab_size, (8, 40), generator=torch.manual_seed(0))
    with torch.inference_mode():
        expected = plain(ids, logits_to_keep=1).logits
        logits = small(ids, logits_to_keep=1).logits.float()
    apart = (logits - expected).norm() / expected.norm()
    assert 0 < apart < 0.05
    assert not small.training
    assert not any(parameter.requires_grad for parameter in small.parameters())
    assert torch.get_float32_matmul_precision() == before, "global settings are left alone"


def test_a_family_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    for family, named in (
        ("gpt2", "GPT2LMHeadModel has 0% of its weights in linear layers that int8 can quantise"),
        ("mamba", "MambaForCausalLM cannot be run with int8 weights"),
    ):
        folder = write_language_model(tmp_path / family, family)
        with pytest.raises(ModelError, match=f"{named}.*leave quantise out"):
            load_language_model(folder, "cpu", "float32", "int8")


def test_what_is_quantised_already_or_no_language_model_is_named(tmp_path: Path) -> None:
    quantised = (
        '{"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}'
    )
    for config, named in (
        (quantised, "quantised already"),
        ('{"model_type": "distilbert"}', "is no causal LM"),
    ):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ModelError, match=named):
            divide_layers(tmp_path, "int8")


class TestChecks:
    def test_an_unknown_one_and_a_missing_library_are_named(
        self, monkeypatch: pytest.MonkeyPatch, llm: Path
    ) -> None:
        with pytest.raises(SettingError, match="got 'int4', must be one of none, int8, fp8"):
            check_quantisation("int4", "cpu", "float32")
        monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
        check_quantisation("none", "cpu", "float32")
        with pytest.raises(SettingError, match=r"install .* -e '.\[quantised\]'"):
            load_language_model(llm, "cpu", "float32", "int8")

    def test_fp8_needs_a_device_that_multiplies_it(
        self, monkeypatch: pytest.MonkeyPatch, llm: Path
    ) -> None:
        with pytest.raises(SettingError, match="the device is cpu; use int8"):
            load_language_model(llm, "cpu", "bfloat16", "fp8")
        pretend_gpus(monkeypatch, free=(80, 80), capability=(8, 0))
        for device in ("cuda:1", ALL):
            with pytest.raises(SettingError, match=r"8\.9 or more, Some GPU has 8\.0"):
                check_quantisation("fp8", device, "bfloat16")
        pretend_gpus(monkeypatch, free=(80, 80), capability=(8, 9))
        check_quantisation("fp8", ALL, "bfloat16")
        with pytest.raises(SettingError, match="computes in bfloat16, got float32"):
            check_quantisation("fp8", "cuda", "float32")

    def test_fp8_takes_only_what_its_units_can(self, llm: Path, tmp_path: Path) -> None:
        assert divide_layers(llm, "fp8")[0] == divide_layers(llm, "int8")[0]
        copy = Path(shutil.copytree(llm, tmp_path / "copy"))
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 1}))
        left = set(divide_layers(copy, "int8")[0]) - set(divide_layers(copy, "fp8")[0])
        assert {name.split(".")[-1] for name in left} == {"k_proj", "v_proj"}
        scheme = make_quantisation(llm, "fp8")
        assert type(scheme.quant_type).__name__ == "Float8DynamicActivationFloat8WeightConfig"
        assert scheme.modules_to_not_convert == ["lm_head"]
