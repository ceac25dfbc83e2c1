"""The student function h: the same input embeddings to class logits, through a small encoder.

A linear adapter takes the language model's embeddings (width d_T) to the encoder's (d_S); nothing
else stands between the shared embedding layer and the encoder, so that the adapter can be folded
into an ordinary embedding table when the student is exported.  Every input begins with the
language model's start token, for encoders whose head reads the first position.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.errors import ModelError, SettingError
from stages.loading import load_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

INITS = ("pretrained", "random")


@dataclass(frozen=True)
class Architecture:
    """What a short name of ``--arch`` stands for.

    Attributes:
        hub_id: Where the pretrained weights are, or None where there are none.
        model_type: The configuration's type in transformers.
        settings: What differs from that type's defaults.
    """

    hub_id: str | None
    model_type: str
    settings: dict[str, Any]


ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
ARCHITECTURES = {
    "mini": Architecture(
        None,
        "modernbert",
        {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": 1024,
            "global_attn_every_n_layers": 1,
            "classifier_pooling": "mean",
        },
    ),
    "minilm": Architecture(
        "nreimers/MiniLM-L6-H384-uncased",
        "bert",
        {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
    ),
    "distilbert": Architecture("distilbert/distilbert-base-uncased", "distilbert", {}),
    "bert-base": Architecture("google-bert/bert-base-uncased", "bert", {}),
    "modernbert-base": Architecture("answerdotai/ModernBERT-base", "modernbert", {}),
    "roberta-base": Architecture("FacebookAI/roberta-base", "roberta", ROBERTA),
    "roberta-large": Architecture(
        "FacebookAI/roberta-large",
        "roberta",
        {
            **ROBERTA,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    ),
}


class Student(nn.Module):
    """Adapter, encoder and head.

    Attributes:
        adapter: Linear map d_T → d_S without bias.
        encoder: A stock sequence-classification model of transformers; its own word embeddings
            are never read and hold a single row.
        start: Embedding of the start token, shape (d_T,).
    """

    start: torch.Tensor

    def __init__(self, encoder: PreTrainedModel, start: torch.Tensor, table_std: float) -> None:
        super().__init__()
        words = encoder.get_input_embeddings()
        width, own_std = words.embedding_dim, float(words.weight.detach().float().std())
        self.adapter = nn.Linear(len(start), width, bias=False)
        # The encoder meets what it expects: outputs as wide as its own word embeddings.
        nn.init.normal_(self.adapter.weight, std=own_std / (table_std * len(start) ** 0.5))
        encoder.set_input_embeddings(nn.Embedding(1, width))
        self.encoder = encoder
        self.register_buffer("start", start.float())

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Classify a batch of inputs.

        Args:
            embeddings: Input embeddings, shape (B, T, d_T), any float type, T may be 0.
            mask: 1 at inputs and 0 at padding behind them, shape (B, T); None: no padding.

        Returns:
            Class logits, shape (B, K).
        """
        start = self.start.expand(len(embeddings), 1, -1)
        inputs = self.adapter(torch.cat([start, embeddings.to(start)], dim=1))
        # Always a mask, the start token's place included: without one some encoders guess.
        seen = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        if mask is not None:
            seen[:, 1:] = mask
        logits: torch.Tensor = self.encoder(inputs_embeds=inputs, attention_mask=seen).logits
        return logits


def build_encoder(
    arch: str, init: str, labels: tuple[str, ...], max_length: int
) -> PreTrainedModel:
    """Build a stock sequence-classification encoder.

    Args:
        arch: A short name of :data:`ARCHITECTURES`, a hub id, or a directory.
        init: ``pretrained`` (downloads where ``arch`` is no directory) or ``random``.
        labels: The classes' names in column order.
        max_length: Longest input in pieces, without the start token.

    Returns:
        The model in float32.

    Raises:
        SettingError: The start asked for does not exist.
        ModelError: The architecture is unknown, cannot be fetched, is no encoder with a
            sequence-classification head, or is too short for the inputs.
    """
    from transformers import AutoModelForSequenceClassification

    if init not in INITS:
        raise SettingError(f"init: got {init!r}, must be one of {', '.join(INITS)}")
    known = ARCHITECTURES.get(arch)
    if init == "pretrained" and known is not None and known.hub_id is None:
        raise SettingError(f"{arch} has no pretrained weights; use --init random")
    names = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    config = _load_config(arch, known, init, max_length)
    if not _is_encoder(config):
        raise ModelError(f"{arch} is no encoder; students are encoders with a classification head")
    config.update(names)
    if init == "pretrained":
        encoder = load_weights(
            AutoModelForSequenceClassification,
            known.hub_id if known and known.hub_id else arch,
            "an encoder",
            _is_head,
            config=config,
            dtype=torch.float32,
        )
    else:
        try:
            encoder = AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=False, dtype=torch.float32
            )
        except Exception as error:  # transformers raises a dozen types, some of them bare
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"cannot build the encoder {arch}: {reason}") from error
    return encoder


def _is_encoder(config: PretrainedConfig) -> bool:
    """Whether every position sees the whole input: decoders are told by what they are for."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_decoder", False) or config.is_encoder_decoder:
        return False
    masked = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return masked or config.model_type not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _is_head(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight belongs to what stands on the encoder, which begins anew anyway."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def count_positions(config: PretrainedConfig) -> int | None:
    """Return the longest input that an encoder's position table allows, or None."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None or longest <= 0:
        return None
    return int(longest) - _position_offset(config)


def _position_offset(config: PretrainedConfig) -> int:
    """Return how many rows of the position table RoBERTa-like encoders never use."""
    from transformers import AutoModel

    with torch.device("meta"):
        embeddings: Any = getattr(AutoModel.from_config(config), "embeddings", None)
    if not hasattr(embeddings, "create_position_ids_from_inputs_embeds"):
        return 0
    other = copy.deepcopy(config)
    other.pad_token_id = int(embeddings.padding_idx) + 1
    with torch.device("meta"):
        fixed = AutoModel.from_config(other).embeddings.padding_idx == embeddings.padding_idx
    if fixed:
        # MPNet does; under another vocabulary that id is a word, or the start token.
        raise ModelError(
            f"{config.model_type} encoders skip token id {embeddings.padding_idx} when they count "
            "positions, whatever the vocabulary, so they cannot read the language model's tokens; "
            "use another encoder"
        )
    return int(embeddings.padding_idx) + 1


def _load_config(
    arch: str, known: Architecture | None, init: str, max_length: int
) -> PretrainedConfig:
    from transformers import AutoConfig

    if known is not None and init == "random":
        config = AutoConfig.for_model(known.model_type, **known.settings)
    else:
        source = known.hub_id if known else arch
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            names = ", ".join(ARCHITECTURES)
            hint = "use --init random, or " if known else ""
            where = "" if known or Path(arch).is_dir() else f" (short names are {names})"
            raise ModelError(
                f"cannot load the encoder {arch}{where}: {hint}give the directory of a model "
                f"that is here: {reason}"
            ) from error
    if init == "random":
        # The word embeddings are never read: few rows save their initialisation, and the special
        # ids that point beyond them go.
        config.vocab_size, config.pad_token_id = 1024, 0
        for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if hasattr(config, name):
                setattr(config, name, None)
    room = count_positions(config)
    if room is not None and max_length + 1 > room:
        if init == "pretrained":
            raise ModelError(
                f"{arch} reads at most {room - 1} pieces behind the start token, the task's "
                f"inputs have up to {max_length}; lower the task's max_length"
            )
        config.max_position_embeddings += max_length + 1 - room
    return config
