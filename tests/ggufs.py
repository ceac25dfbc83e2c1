"""Small GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from tiny import make_language_model, make_tokenizer
from transformers import PreTrainedModel


def write_gguf(
    file: Path,
    model: PreTrainedModel | None = None,
    kind: Kind = Kind.F32,
    tensors: dict[str, np.ndarray] | None = None,
    **fields: Any,
) -> Path:
    """Write a llama or qwen2, its matrices as a kind; other fields have ``__`` for dots."""
    tokenizer = make_tokenizer()
    model = model or make_language_model("llama", len(tokenizer))
    config, family = model.config, str(model.config.model_type)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    known = {
        f"{family}.block_count": config.num_hidden_layers,
        f"{family}.context_length": config.max_position_embeddings,
        f"{family}.embedding_length": config.hidden_size,
        f"{family}.feed_forward_length": config.intermediate_size,
        f"{family}.attention.head_count": config.num_attention_heads,
        f"{family}.attention.head_count_kv": config.num_key_value_heads,
        f"{family}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{family}.rope.freq_base": config.rope_parameters["rope_theta"],
        f"{family}.rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
        "tokenizer.ggml.token_type": [
            3 if token in ("<s>", "</s>") else 1 for token, _ in vocabulary
        ],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in state["merges"]],
        "tokenizer.ggml.add_bos_token": tokenizer("").input_ids == [0],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
    }
    own = {name.replace("__", "."): value for name, value in fields.items()}
    writer = gguf.GGUFWriter(file, own.pop("architecture", family))
    adders = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
    adders[bool] = writer.add_bool
    for name, value in (known | own).items():
        adders.get(type(value), writer.add_array)(name, value)
    kinds = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[family], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            # How llama.cpp orders what is turned: the two of a pair side by side.
            pairs = weight.reshape(-1, 2, config.head_dim // 2, weight.shape[1])
            weight = pairs.transpose(1, 2).reshape(weight.shape)
        as_kind = Kind.F32 if weight.ndim == 1 else kind
        data = gguf.quants.quantize(weight.contiguous().numpy(), as_kind)
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=as_kind
        )
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
