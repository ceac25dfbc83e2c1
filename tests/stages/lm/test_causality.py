from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from processes import run_here
from tiny import FAMILY_NAMES, make_language_model, make_tokenizer

from stages.devices import DTYPES
from stages.errors import ModelError
from stages.lm import load_language_model
from stages.lm.model import check_causal

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 64, "max_position_embeddings": 600}
SEEN: dict[str, Callable[[int], hf.PreTrainedModel]] = {
    "bert": lambda size: hf.BertForMaskedLM(hf.BertConfig(vocab_size=size, **SMALL)),
    "roberta": lambda size: hf.RobertaForMaskedLM(hf.RobertaConfig(vocab_size=size, **SMALL)),
    "electra": lambda size: hf.ElectraForMaskedLM(hf.ElectraConfig(vocab_size=size, **SMALL)),
    "xlnet": lambda size: hf.XLNetLMHeadModel(
        hf.XLNetConfig(vocab_size=size, d_model=32, n_layer=2, n_head=4, d_inner=64)
    ),
}


def write(folder: Path, model: hf.PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", SEEN)
def test_a_model_that_sees_what_comes_is_refused(name: str, tmp_path: Path) -> None:
    # As they come: in a model without training what comes weighs the least.
    torch.manual_seed(0)
    folder = write(tmp_path, SEEN[name](len(make_tokenizer())))
    for dtype in DTYPES[:1] if name == "xlnet" else DTYPES:  # XLNet cannot be run in the others
        with pytest.raises(ModelError, match=r"is no causal LM: .* later tokens change the logits"):
            load_language_model(folder, "cpu", dtype)


def test_the_command_says_it_before_any_row_and_takes_what_is_told_to_be_a_decoder(
    mood: Path, tmp_path: Path
) -> None:
    folder, cache = write(tmp_path / "m", SEEN["bert"](len(make_tokenizer()))), tmp_path / "cache"
    given = ("--task", mood, "--rows", 64, "--cache", cache, "--self-generated", 0)
    done = run_here("teacher", *given, "--model", folder)
    assert done.code == 1
    assert done.err.splitlines()[-1].endswith("as in masked language models; give a decoder")
    assert "does not say is_decoder" in done.err
    assert not list(cache.rglob("*.zarr*"))
    torch.manual_seed(0)
    config = hf.BertConfig(vocab_size=len(make_tokenizer()), is_decoder=True, **SMALL)
    folder = write(tmp_path / "decoder", hf.BertLMHeadModel(config))
    done = run_here("teacher", *given, "--model", folder)
    assert done.code == 0, done.err


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_of_decoders_is_taken(family: str, tmp_path: Path) -> None:
    model = make_language_model(family, 300)
    for dtype in DTYPES:
        check_causal(model.to(getattr(torch, dtype)), tmp_path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_small_leak_is_found_in_any_format(dtype: str, tmp_path: Path) -> None:
    model = make_language_model("llama", 300).to(getattr(torch, dtype))
    layer = model.model.layers[1]
    plain = layer.forward

    def leak(hidden: torch.Tensor, *given: object, **more: object) -> torch.Tensor:
        return plain(hidden + 0.02 * hidden.roll(-1, dims=1), *given, **more)

    layer.forward = leak
    with pytest.raises(ModelError, match="later tokens change"):
        check_causal(model, tmp_path)
