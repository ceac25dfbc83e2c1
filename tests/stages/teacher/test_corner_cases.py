"""Models, tokenizers and prompts of kinds that are rare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny import draw_ids, make_language_model, make_short_task, make_tokenizer
from tokenizers import Tokenizer

from cache.draw import mix_seeds
from stages.errors import ModelError
from stages.inputs import InputsConfig, SamplingSettings, prepare_inputs
from stages.lm.model import check_causal
from stages.reporter import SilentReporter
from stages.teacher import Teacher, make_teacher
from stages.teacher.attention import attend
from stages.teacher.endings import Endings
from stages.teacher.fill import compute_thresholds
from stages.teacher.generation import write_texts


def make_hollow_tokenizer(hole: int) -> hf.PreTrainedTokenizerFast:
    """One whose last token stands behind ids that none has."""
    state: dict[str, Any] = json.loads(make_tokenizer().backend_tokenizer.to_str())
    last = len(state["model"]["vocab"]) + hole
    state["model"]["vocab"]["<|end|>"] = last
    state["added_tokens"].append(state["added_tokens"][1] | {"id": last, "content": "<|end|>"})
    core = Tokenizer.from_str(json.dumps(state))
    named = {"bos_token": "<s>", "eos_token": "<|end|>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, **named)


@pytest.mark.parametrize("hole", [0, 20])
def test_texts_end_with_a_token_behind_a_hole_in_the_vocabulary(hole: int) -> None:
    tokenizer = make_hollow_tokenizer(hole)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    model = make_language_model("opt", end + 40)
    head = torch.nn.Linear(32, end + 40).requires_grad_(False)
    head.weight *= 0.1
    head.bias[:] = 0
    head.bias[end] = 8.0
    model.set_output_embeddings(head)
    model.generation_config.eos_token_id = [end]
    teacher = Teacher(model, tokenizer, make_short_task())
    texts = write_texts(teacher, mix_seeds(0, 0, 20), SamplingSettings(), 24, lambda _: None)
    lengths = (texts >= 0).sum(axis=1)
    assert np.median(lengths) == 1 and lengths.max() < 24
    assert {*texts.ravel().tolist()}.isdisjoint(range(end - hole, end + 1))


@pytest.mark.parametrize("suffix", [" Answer:", "\nAnswer:", "Answer:"])
def test_a_text_may_begin_with_all_that_is_not_the_suffix_s_begin(suffix: str) -> None:
    tokenizer = make_tokenizer()
    plain = Endings(tokenizer, [1])
    found = Endings(tokenizer, [1], tokenizer.encode(suffix, add_special_tokens=False))
    behind = "".join(found.pieces[k] for k in tokenizer.encode(suffix, add_special_tokens=False))
    for piece, banned, always in zip(
        found.pieces, found.cannot_begin, plain.cannot_begin, strict=True
    ):
        alike = bool(piece) and (behind.startswith(piece) or piece.startswith(behind))
        assert banned == (always or alike), piece


def test_a_model_that_looks_its_token_ids_up_elsewhere_too_is_refused(tmp_path: Path) -> None:
    config = hf.AutoConfig.for_model(
        "gemma3n_text", vocab_size=300, vocab_size_per_layer_input=300, num_hidden_layers=4,
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=[64] * 4, hidden_size_per_layer_input=8, altup_num_inputs=2,
        laurel_rank=4, num_kv_shared_layers=0, layer_types=["full_attention"] * 4,
        activation_sparsity_pattern=[0.0] * 4, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    with pytest.raises(ModelError, match="reads token ids otherwise than the ids' embeddings"):
        check_causal(model, tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_teacher_that_was_suspended_answers_as_before_after_another(family: str) -> None:
    tokenizer = make_tokenizer()
    model = make_language_model(family, len(tokenizer))
    first = Teacher(model, tokenizer, make_short_task())
    inputs = first.look_up(draw_ids(5, 6, len(tokenizer)).numpy())
    wanted = first.compute_class_logits(inputs)
    with first.suspend():
        other = Teacher(model, tokenizer, make_short_task(prompt="Another, longer prompt:\n"))
        assert (other.compute_class_logits(inputs) != wanted).any()
        other.release()
    torch.testing.assert_close(first.compute_class_logits(inputs), wanted)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_prompt_that_leaves_no_room_for_contexts_is_refused(family: str) -> None:
    tokenizer = make_tokenizer()
    own = {"gpt2": {}, "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "llama": {}}[family]
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    config = hf.AutoConfig.for_model(family, bos_token_id=0, eos_token_id=1, **sizes | own)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    task = replace(make_short_task(prompt="Good? " * 24 + "\n"), max_length=8)
    room = 64 - 8 - len(tokenizer.encode(task.suffix))
    while len(tokenizer.encode(task.prompt)) > room - 4:
        task = replace(task, prompt=task.prompt[6:])
    assert len(tokenizer.encode(task.prompt)) > 64 - 32
    teacher = make_teacher(model, tokenizer, task, False, None, SilentReporter())
    inputs = prepare_inputs(
        InputsConfig(sampler="unigram", rows=64), task, tokenizer, SilentReporter()
    )
    with pytest.raises(ModelError, match="prompt and context of unigram"):
        compute_thresholds(inputs, teacher, SilentReporter(), 2)


def test_products_beyond_float16_are_finite_where_they_are_scaled_down() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 5, 64).half()
    query[..., 0] = key[..., 0] = (
        280  # as the biases of Qwen 2: products of 78,400, an eighth scaled
    )
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    wanted, _ = attend(query.float(), key.float(), value.float(), False, None, None, sees=sees)
    found, _ = attend(query, key, value, False, None, None, sees=sees)
    torch.testing.assert_close(found.float(), wanted, atol=5e-3, rtol=0)


def test_temperatures_that_differ_at_all_are_of_different_rows() -> None:
    tokenizer, task = make_tokenizer(), make_short_task()

    def identify(**own: Any) -> Any:
        config = InputsConfig(sampler="self", rows=64, **own)
        return prepare_inputs(config, task, tokenizer, SilentReporter()).identity["writing"]

    assert identify() == {"temperature": "1", "top_p": "1"}
    assert identify(temperature=0.5) != identify(temperature=0.5000001)
    assert identify(top_p=0.9999999) != identify()
