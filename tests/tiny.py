"""Tiny models, tokenizers, tasks and settings that the tests make for themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

from stages.lm.model import load_language_model
from stages.loading import load_tokenizer
from stages.student.config import StudentConfig, TrainingConfig
from stages.tasks.task import Task, list_tasks, load_task, parse_task
from stages.teacher import autotune as tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.teacher import Callbacks, Embed, Teacher

MOOD = """\
name: mood
prompt: "Is this good or bad?\\n"
suffix: "\\nAnswer:"
max_length: 12
labels:
  bad: [Bad, Poor]
  good: [Good, Great]
"""

LONGEST = 24
"""Tokens of the longest input of :func:`make_short_task`."""

LABEL_WORDS = sorted({w for name in list_tasks() for x in load_task(name).labels for w in x.words})
CORPUS = [f"a {word} answer: {word} {word.lower()}\nAnswer: {word}" for word in LABEL_WORDS] * 20

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
    ("mpnet", {}),
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
    "mobilebert": (
        {"embedding_size": 32, "intra_bottleneck_size": 32},
        "padding behind an input changes their answer",
    ),
    "modernbert-decoder": ({}, "is no encoder"),
    "nystromformer": ({}, "padding behind an input changes their answer"),
    "t5": ({}, "is no encoder"),
}


def make_tokenizer(kind: str = "bytes", start: str | None = "<s>") -> hf.PreTrainedTokenizerFast:
    """A small BPE over bytes, as GPT-2's and Qwen's, or over tokens with ▁, as Llama-2's."""
    specials = ["<s>", "</s>"]
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        core.train_from_iterator(CORPUS, _trainer(specials, alphabet))
    else:
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Metaspace()
        learner.train_from_iterator(CORPUS, _trainer([], []))
        learned = json.loads(learner.to_str())["model"]
        fixed = ["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256))]
        tokens = fixed + [p for p in learned["vocab"] if p not in fixed]
        core = Tokenizer(
            models.BPE(
                {token: number for number, token in enumerate(tokens)},
                [tuple(pair) for pair in learned["merges"]],
                unk_token="<unk>",  # noqa: S106
                byte_fallback=True,
                fuse_unk=True,
            )
        )
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        core.add_special_tokens(specials)
    named = {"bos_token": start, "eos_token": specials[1]}
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, **named)


def make_language_model(family: str, vocabulary: int) -> hf.PreTrainedModel:
    """A random causal LM whose answers depend visibly on its input."""
    model_type, own = FAMILIES[family]
    common: dict[str, Any] = {"num_hidden_layers": 3, "max_position_embeddings": 512}
    if family != "gpt2":
        common |= {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
        common |= {"intermediate_size": 64}
    common |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    made = hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model(model_type, **common | own))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_((0.5 if family == "llama" else 0.2) * torch.randn_like(parameter))
    return made.eval()


def make_short_task(suffix: str = "\nAnswer:", prompt: str | None = None) -> Task:
    task = parse_task(yaml.safe_load(MOOD), "mood", "mood")
    return replace(
        task,
        suffix=suffix,
        prompt=task.prompt if prompt is None else prompt,
        max_length=LONGEST,
    )


def make_teacher(family: str, suffix: str = "\nAnswer:", prompt: str | None = None) -> Teacher:
    tokenizer = make_tokenizer(start=None if prompt == "" else "<s>")
    model = make_language_model(family, len(tokenizer))
    return Teacher(model, tokenizer, make_short_task(suffix, prompt))


def draw_ids(rows: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(7))


class Listener:
    """Keeps what a callbacks is told."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.warnings: list[str] = []
        self.callbacks = Callbacks(self.counts.append, self.warnings.append)


def embed_with(teacher: Teacher, ids: torch.Tensor) -> Embed:
    return lambda rows, length: teacher.look_up(ids.numpy()[rows, :length])


def run_out(teacher: Teacher, room: int) -> None:
    """Let the teacher's device have memory for so many positions."""

    def refuse(module: nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs["inputs_embeds"].shape[:2].numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    teacher.model.register_forward_pre_hook(refuse, with_kwargs=True)


def fake_rates(monkeypatch: pytest.MonkeyPatch, rate: Callable[[int], float]) -> list[int]:
    """Have a machine of given speed; no real one is the same twice."""
    sizes: list[int] = []

    def measure(teacher: Teacher, length: int, positions: int) -> float:
        sizes.append(positions)
        return rate(positions)

    monkeypatch.setattr(tuning, "measure_rate", measure)
    return sizes


def write_language_model(
    folder: Path, family: str = "llama", kind: str = "bytes", start: str | None = "<s>"
) -> Path:
    tokenizer = make_tokenizer(kind, start)
    make_language_model(family, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change_weights(llm: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """Write a language model again with other weights."""
    model = load_language_model(llm, "cpu", "float32")
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    load_tokenizer(llm).save_pretrained(folder)
    return folder


def write_encoder(folder: Path, model_type: str) -> Path:
    """A random encoder with weights, as one downloaded beforehand."""
    config = make_encoder_config(model_type, dict(ENCODERS)[model_type])
    torch.manual_seed(1)
    hf.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def make_encoder_config(model_type: str, own: dict[str, Any]) -> hf.PretrainedConfig:
    """A tiny configuration of any family of encoders, from what its kind has of the usual."""
    known = type(hf.AutoConfig.for_model(model_type))
    common: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 1}
    common |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {"intermediate_size": 64}
    common |= {f"{name}_token_id": 0 for name in ("bos", "eos", "cls", "sep", "mask")}
    # Families with other names for some of it are given these in their own settings.
    taken = set(dir(known)) - {"num_hidden_layers"} if model_type == "funnel" else set(dir(known))
    taken -= {name for name in known.attribute_map if name != "vocab_size"}
    usual = {key: value for key, value in common.items() if key in taken}
    return hf.AutoConfig.for_model(model_type, **usual | own)


def make_teacher_config(task: Path | str, model: Path | str, cache: Path, **own: Any) -> Any:
    """Settings of a cache of a few shards that fills in a second."""
    small: dict[str, Any] = {"rows": 200, "chunk_rows": 8, "shard_rows": 32, "batch_positions": 512}
    small |= {"sampler": "vocabulary", "self_generated": 0}
    return TeacherConfig(task=str(task), model=str(model), cache=cache, **small | own)


def make_student_config(task: Path | str, cache: Path, out: Path, **own: Any) -> Any:
    """Settings of a student that is trained in a few seconds."""
    fields = {
        "steps": 12,
        "batch_size": 16,
        "lengths_per_batch": 4,
        "log_every": 4,
        "checkpoint_every": 5,
    }
    names = set(TrainingConfig.__dataclass_fields__) - {"learning_rate"}
    training = TrainingConfig(**fields | {key: own.pop(key) for key in names & set(own)})
    return StudentConfig(
        task=str(task),
        cache=cache,
        out=out,
        training=training,
        **{"arch": "mini", "held_out_rows": 16} | own,
    )


def _trainer(specials: list[str], alphabet: list[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
