"""Small GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def write_gguf(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    kind: Kind = Kind.F32,
    tensors: dict[str, np.ndarray] | None = None,
    **fields: Any,
) -> Path:
    """Write a model of a family whose names in GGUF are its own; ``kind`` is of the matrices."""
    config, vocabulary = model.config, tokenizer.get_vocab()
    writer = GGUFWriter(file, fields.pop("architecture", config.model_type))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    special = set(tokenizer.all_special_ids)
    writer.add_token_types([3 if each in special else 1 for each in range(len(vocabulary))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    for name, value in fields.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(
            name.replace("__", "."), value
        )
    architecture = {text: key for key, text in gguf.MODEL_ARCH_NAMES.items()}[config.model_type]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
        part = name.removesuffix("_proj.weight")[-1]
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            # How llama.cpp orders what is turned: the two of a pair side by side.
            pairs = weight.reshape(heads[part], 2, -1, weight.shape[1])
            weight = pairs.transpose(1, 2).reshape(weight.shape)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        own = Kind.F32 if weight.ndim == 1 else kind
        data = gguf.quants.quantize(weight.float().numpy(), own)
        writer.add_tensor(found, np.ascontiguousarray(data), raw_dtype=own)
    for name, data in (tensors or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def quantise(model: PreTrainedModel, kind: Kind) -> None:
    """Give a model's matrices the values that they have once they were written as a kind."""
    for weight in model.parameters():
        if weight.ndim > 1:
            data = gguf.quants.quantize(weight.detach().numpy(), kind)
            weight.data = torch.from_numpy(gguf.quants.dequantize(data, kind).copy())
