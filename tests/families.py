"""Tiny settings of the families of language models and encoders that the tests try."""

from __future__ import annotations

from typing import Any

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "mistral-wide": ("mistral", {"sliding_window": 400}),
    "gemma": ("gemma", {"head_dim": 8}),
    "gemma2": ("gemma2", {"head_dim": 8, "sliding_window": 16}),
    "gemma2-wide": ("gemma2", {"head_dim": 8}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "sliding_window": 16}),
    "gemma3-wide": ("gemma3_text", {"head_dim": 8}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"pad_token_id": 0}),
    # Turns as far as the longest row of a batch says, from 16 positions on.
    "phi3-long": (
        "phi3",
        {
            "pad_token_id": 0,
            "rope_parameters": LONG_ROPE | {"rope_theta": 1e4},
            "original_max_position_embeddings": 16,
        },
    ),
    "neox": ("gpt_neox", {}),
    "falcon": ("falcon", {}),
    "falcon-alibi": ("falcon", {"alibi": True}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"pad_token_id": 0}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {}),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5}
        | {"logits_scaling": 2.0},
    ),
    "cohere": ("cohere", {"logit_scale": 0.5}),
    "opt": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "bloom": ("bloom", {}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}),
    "bigcode": ("gpt_bigcode", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    # Two softmaxes, one taken from the other.
    "diffllama": ("diffllama", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2-moe": ("qwen2_moe", EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16}),
    "qwen3-moe": ("qwen3_moe", EXPERTS | {"num_experts": 4, "head_dim": 8}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "gpt-oss": (
        "gpt_oss",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 400},
    ),
    "llama4": (
        "llama4_text",
        {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 32, "pad_token_id": 0},
    ),
    "llama4-unturned": (
        "llama4_text",
        {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 32, "pad_token_id": 0}
        | {"no_rope_layers": [1, 0, 1]},
    ),
    "llama4-chunks": (
        "llama4_text",
        {
            "head_dim": 8,
            "num_local_experts": 2,
            "intermediate_size_mlp": 32,
            "pad_token_id": 0,
            "attention_chunk_size": 16,
        },
    ),
    # Values of another width than queries and keys.
    "deepseek3": (
        "deepseek_v3",
        EXPERTS
        | {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
        | {"v_head_dim": 6, "num_key_value_heads": 4, "n_routed_experts": 4}
        | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    ),
    "mamba": ("mamba", {"state_size": 4}),
    "jamba": (
        "jamba",
        {"use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4, "num_experts": 2}
        | {"num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    # Looks three positions back, in front of an ordinary last layer.
    "lfm2": ("lfm2", {"layer_types": ["conv", "conv", "full_attention"]}),
    # State space and attention side by side in every layer.
    "falcon-h1": (
        "falcon_h1",
        {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}
        | {"mamba_n_groups": 1, "mamba_chunk_size": 8, "head_dim": 8},
    ),
    "qwen3-next": (
        "qwen3_next",
        EXPERTS
        | {"layer_types": ["linear_attention", "linear_attention", "full_attention"]}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
        | {"linear_num_value_heads": 4, "head_dim": 8, "num_experts": 4}
        | {"shared_expert_intermediate_size": 16},
    ),
}
FAMILY_NAMES = tuple(FAMILIES)
OFTEN = ("llama", "gpt2", "mistral", "gemma2-wide", "falcon-alibi", "bloom", "mpt", "gpt-oss")
OFTEN += ("llama4-chunks", "deepseek3", "diffllama", "mamba", "lfm2", "qwen3-next", "phi3-long")
"""One family for each way that others are like."""

ENCODERS = (
    ("roberta", {"type_vocab_size": 1}),
    ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    ("bert", {}),
    ("modernbert", {"global_attn_every_n_layers": 2, "local_attention": 8}),
    ("electra", {"embedding_size": 16}),
    ("albert", {"embedding_size": 16}),
    (
        "deberta-v2",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
        | {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
    ),
    ("xlm-roberta", {"type_vocab_size": 1}),
    # What is called static.
    ("eurobert", {"num_hidden_layers": 0, "classifier_pooling": "mean"}),
)
ENCODER_NAMES = tuple(name for name, _ in ENCODERS)

FURTHER_ENCODERS: dict[str, dict[str, Any]] = {
    "big_bird": {},
    "camembert": {},
    "data2vec-text": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "ernie": {},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "gte": {},
    "jina_embeddings_v3": {"type_vocab_size": 1},
    "megatron-bert": {},
    "nomic_bert": {},
    "rembert": {"input_embedding_size": 16},
    "roberta-prelayernorm": {},
    "roformer": {"embedding_size": 16},
    "squeezebert": {"embedding_size": 32},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "xlm-roberta-xl": {},
}
REFUSED_ENCODERS: dict[str, tuple[dict[str, Any], str]] = {
    "canine": ({}, "no table of word embeddings"),
    "convbert": ({"embedding_size": 16}, "padding behind an input changes their answer"),
    "esm": (
        {"mask_token_id": 3, "token_dropout": True},
        "token ids otherwise than the ids' embeddings",
    ),
    "fnet": ({}, "padding behind an input changes their answer"),
    "funnel": (
        {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8},
        "fails when it is tried",
    ),
    "ibert": ({}, "no table of word embeddings"),
    "longformer": ({"attention_window": 8}, "fails when it is tried"),
    "mistral4": ({}, "is a decoder"),
    "mpnet": ({}, "token ids otherwise than the ids' embeddings"),
    "mobilebert": (
        {"embedding_size": 32, "intra_bottleneck_size": 32},
        "padding behind an input changes their answer",
    ),
    "modernbert-decoder": ({}, "is no encoder"),
    "nystromformer": ({}, "padding behind an input changes their answer"),
    "t5": ({}, "is no encoder"),
}
