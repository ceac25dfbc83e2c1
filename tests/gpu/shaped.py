"""Random language models in the shapes of known families, with heads of a given width."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

VOCABULARY = 300

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen3": ("qwen3", {"num_key_value_heads": 1}),
    "gemma": ("gemma", {"num_key_value_heads": 1}),
    # Bounds its scores, which no fused kernel does.
    "gemma2": ("gemma2", {"num_key_value_heads": 2}),
    "gpt2": ("gpt2", {}),
}


def make_shaped(
    family: str,
    width: int,
    dtype: torch.dtype,
    device: str,
    layers: int = 3,
    vocabulary: int = VOCABULARY,
) -> hf.PreTrainedModel:
    """A small model whose logits are a few units large and depend on all of an input.

    Its heads are as wide as asked, whatever its own width: products of half precision are slow on
    a processor, and it is the heads that the choice of a kernel depends on.
    """
    model_type, own = SHAPES[family]
    size = max(width, 32) if family == "gpt2" else 64
    common: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1}
    common |= {"initializer_range": 2 * size**-0.5}
    if family == "gpt2":
        common |= {"n_embd": size, "n_layer": layers, "n_head": size // width, "n_positions": 512}
    else:
        common |= {"hidden_size": size, "num_attention_heads": 4, "head_dim": width}
        common |= {"num_hidden_layers": layers, "intermediate_size": 2 * size}
        common |= {"max_position_embeddings": 512}
    torch.manual_seed(0)
    config = hf.AutoConfig.for_model(model_type, **common | own)
    # The plain attention knows all that a family does; some versions' fused one leaves bounds out.
    fused = "eager" if family == "gemma2" else "sdpa"
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation=fused)
    return model.eval().requires_grad_(False).to(device, dtype)
