"""Random language models in the shapes of known families, with heads of a given width."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

SIZE = 64

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 1},
    "gemma": {"num_key_value_heads": 1},
    "gemma2": {"num_key_value_heads": 2},  # bounds its scores, which no fused kernel does
    "gpt2": {},
}


def make_shaped(
    family: str, width: int, dtype: torch.dtype, device: str, vocabulary: int, layers: int = 3
) -> hf.PreTrainedModel:
    """A small model with wide heads, whose logits are a few units large and depend on all inputs.

    Products of half precision are slow on a processor, and the kernel depends on the heads alone.
    """
    settings = SHAPES[family] | {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1}
    settings |= {"hidden_size": SIZE, "intermediate_size": 2 * SIZE, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": SIZE // width if family == "gpt2" else 4, "head_dim": width}
    settings |= {"max_position_embeddings": 512, "initializer_range": 2 * SIZE**-0.5}
    torch.manual_seed(0)
    config = hf.AutoConfig.for_model(family, **settings)
    # The plain attention knows all that a family does; some versions' fused one leaves bounds out.
    fused = "eager" if family == "gemma2" else "sdpa"
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation=fused)
    return model.eval().requires_grad_(False).to(device, dtype)
