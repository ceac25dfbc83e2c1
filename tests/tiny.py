"""Tiny models, tokenizers, tasks and settings that the tests make for themselves."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from families import ENCODER_NAMES as ENCODER_NAMES
from families import ENCODERS as ENCODERS
from families import FAMILIES as FAMILIES
from families import FAMILY_NAMES as FAMILY_NAMES
from families import FURTHER_ENCODERS as FURTHER_ENCODERS
from families import OFTEN as OFTEN
from families import REFUSED_ENCODERS as REFUSED_ENCODERS
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import nn

from cache.directory import Cache
from cache.opening import open_cache
from cache.reader import CacheReader
from stages.checkpoints import load_tokenizer
from stages.lm import load_language_model
from stages.reporter import Interrupted, SilentReporter
from stages.student.config import StudentConfig, TrainingConfig
from stages.tasks.task import Task, list_tasks, load_task, parse_task
from stages.teacher import autotune as tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.stage import run_teacher
from stages.teacher.teacher import Embed, Teacher

MOOD = """\
name: mood
prompt: "Is this good or bad?\\n"
suffix: "\\nAnswer:"
max_length: 12
labels:
  bad: [Bad, Poor]
  good: [Good, Great]
word_score: first-token
label_score: max
"""

LONGEST = 24
"""Tokens of the longest input of :func:`make_short_task`."""

LABEL_WORDS = sorted({w for name in list_tasks() for x in load_task(name).labels for w in x.words})
CORPUS = [f"a {word} answer: {word} {word.lower()}\nAnswer: {word}" for word in LABEL_WORDS] * 20


def make_tokenizer(
    kind: str = "bytes", start: str | None = "<s>", adds_start: bool = True
) -> hf.PreTrainedTokenizerFast:
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
    if start == "<s>" and adds_start:  # as Llama's and Gemma's, not as Qwen's
        core.post_processor = processors.TemplateProcessing(
            "<s> $A", "<s> $A $B", [("<s>", core.token_to_id("<s>"))]
        )
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


def load_teacher(task: Path, model: Path) -> Teacher:
    return Teacher(
        load_language_model(model, "cpu", "float32"), load_tokenizer(model), load_task(str(task))
    )


def read_rows(cache: Cache) -> dict[str, np.ndarray]:
    """All columns of a complete cache."""
    reader = CacheReader(cache)
    shards = [reader.read_shard(shard) for shard in reader.shards]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def draw_ids(rows: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(7))


class Listener:
    """Keeps what a teacher tells."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.warnings: list[str] = []

    def hear(self, teacher: Teacher) -> Callable[[int], None]:
        teacher.warn = self.warnings.append
        return self.counts.append


class Stopping(SilentReporter):
    """Asks to stop as soon as something is so."""

    def __init__(self, when: Callable[[], object] = lambda: True) -> None:
        super().__init__()
        self.when = when

    def check_stop(self) -> None:
        if self.when():
            raise Interrupted


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


def begin_cache(config: TeacherConfig) -> tuple[SilentReporter, Cache]:
    """Fill a root's only cache until two shards are committed; return what was said, and it."""
    root = Path(config.cache)
    reporter = Stopping(lambda: len(list(root.glob("*/*/commits/*"))) > 1)
    with pytest.raises(Interrupted):
        run_teacher(config, reporter)
    (place,) = root.glob("*/*")
    return reporter, open_cache(place)


def make_student_config(task: Path | str, cache: Path, out: Path, **own: Any) -> Any:
    """Settings of a student that is trained in a few seconds."""
    fields = {
        "steps": 12,
        "batch_size": 16,
        "lengths_per_batch": 2,
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


def write_text(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def format_rows(ending: str, rows: Sequence[tuple[str, str]]) -> str:
    """The contents of a file of texts and labels in the format of an ending."""
    if ending == ".jsonl":
        return "".join(json.dumps({"label": b, "text": a}) + "\n" for a, b in rows)
    if ending == ".txt":
        return "".join(f"{a}\n" for a, _ in rows)
    text = io.StringIO()
    delimiter = {".csv": ",", ".tsv": "\t"}[ending]
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("label", "text"), *((b, a) for a, b in rows)])
    return text.getvalue()


def _trainer(specials: list[str], alphabet: list[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
