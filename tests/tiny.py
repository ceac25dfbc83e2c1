"""Tiny models, tokenizers, tasks and settings that the tests make for themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stages.stage_one import TeacherConfig
from stages.stage_two import StudentConfig
from stages.task import list_tasks, load_task
from stages.training import TrainingConfig

MOOD = """\
name: mood
prompt: "Is this good or bad?\\n"
suffix: "\\nAnswer:"
max_length: 12
labels:
  bad: [Bad, Poor]
  good: [Good, Great]
"""

LABEL_WORDS = sorted({w for name in list_tasks() for x in load_task(name).labels for w in x.words})
CORPUS = [f"a {word} answer: {word} {word.lower()}\nAnswer: {word}" for word in LABEL_WORDS] * 20

FAMILIES = (
    ("llama", hf.LlamaConfig, hf.LlamaForCausalLM, {}),
    ("gpt2", hf.GPT2Config, hf.GPT2LMHeadModel, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    ("qwen2", hf.Qwen2Config, hf.Qwen2ForCausalLM, {}),
    ("qwen3", hf.Qwen3Config, hf.Qwen3ForCausalLM, {"head_dim": 8}),
    ("mistral", hf.MistralConfig, hf.MistralForCausalLM, {"sliding_window": 16}),
    ("gemma", hf.GemmaConfig, hf.GemmaForCausalLM, {"head_dim": 8}),
    ("gemma2", hf.Gemma2Config, hf.Gemma2ForCausalLM, {"head_dim": 8, "sliding_window": 16}),
    ("gemma3", hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, {"head_dim": 8, "sliding_window": 16}),
    ("phi", hf.PhiConfig, hf.PhiForCausalLM, {}),
    ("neox", hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, {}),
    ("falcon", hf.FalconConfig, hf.FalconForCausalLM, {}),
    ("olmo", hf.OlmoConfig, hf.OlmoForCausalLM, {}),
    ("mamba", hf.MambaConfig, hf.MambaForCausalLM, {"state_size": 4}),
)
FAMILY_NAMES = tuple(name for name, *_ in FAMILIES)

ENCODERS = (
    ("roberta", {"type_vocab_size": 1}),
    ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    ("bert", {}),
    ("modernbert", {"global_attn_every_n_layers": 2, "local_attention": 8}),
    ("electra", {"embedding_size": 16}),
    ("albert", {"embedding_size": 16}),
    ("deberta-v2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    ("xlm-roberta", {"type_vocab_size": 1}),
)
ENCODER_NAMES = tuple(name for name, _ in ENCODERS)


def make_tokenizer(kind: str = "bytes", start: str | None = "<s>") -> hf.PreTrainedTokenizerFast:
    """A small BPE over bytes, as GPT-2's and Qwen's, or over pieces with ▁, as Llama-2's."""
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
        pieces = fixed + [p for p in learned["vocab"] if p not in fixed]
        core = Tokenizer(
            models.BPE(
                {piece: number for number, piece in enumerate(pieces)},
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
    _, config, model, own = next(entry for entry in FAMILIES if entry[0] == family)
    common = {"num_hidden_layers": 3, "max_position_embeddings": 512}
    if family != "gpt2":
        common |= {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
        common |= {"intermediate_size": 64}
    torch.manual_seed(0)
    made = model(config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, **common | own))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_((0.5 if family == "llama" else 0.2) * torch.randn_like(parameter))
    return made.eval()


def write_language_model(
    folder: Path, family: str = "llama", kind: str = "bytes", start: str | None = "<s>"
) -> Path:
    tokenizer = make_tokenizer(kind, start)
    make_language_model(family, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_encoder(folder: Path, model_type: str) -> Path:
    """A random encoder with weights, as one downloaded beforehand."""
    own = dict(ENCODERS)[model_type]
    common: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 1}
    if model_type != "distilbert":
        common |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        common |= {"intermediate_size": 64}
    if model_type == "modernbert":
        common |= {f"{name}_token_id": 0 for name in ("bos", "eos", "cls", "sep")}
    torch.manual_seed(1)
    config = hf.AutoConfig.for_model(model_type, **common | own)
    hf.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def make_teacher_config(task: Path | str, model: Path | str, cache: Path, **own: Any) -> Any:
    """Settings of a cache of a few shards that fills in a second."""
    small = {"rows": 200, "chunk_rows": 8, "shard_rows": 32, "batch_positions": 512}
    return TeacherConfig(task=str(task), model=str(model), cache=cache, **small | own)


def make_student_config(task: Path | str, cache: Path, out: Path, **own: Any) -> Any:
    """Settings of a student that is trained in a few seconds."""
    fields = {"steps": 12, "rows": 16, "slices": 4, "log_every": 4, "checkpoint_every": 5}
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
