"""The student function h: the same input embeddings to class logits, through a small encoder.

An adapter takes the language model's embeddings (width d_T) to the encoder's (d_S), each token by
itself, so that it can be folded into an ordinary embedding table when the student is exported.  It
is linear, unless the encoder has no layers: such a ``static`` student knows a token by nothing but
its vector, so its adapter has a hidden layer.  Every input begins with the language model's start
token, for encoders whose head reads the first position.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from stages.checkpoints import explained, load_config, load_weights
from stages.classify.torch_classifier import find_longest_input
from stages.errors import ModelError, SettingError, Settings
from stages.student.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

INITS = ("pretrained", "random")

HIDDEN = 512
"""Hidden units of the adapter of an encoder without layers."""


class DeepAdapter(nn.Module):
    """A map d_T → d_S of one token at a time: a linear one, and one with a hidden layer, added."""

    def __init__(self, given: int, width: int, table_std: float, word_std: float) -> None:
        super().__init__()
        self.out_features = width
        self.straight = nn.Linear(given, width, bias=False)
        self.up = nn.Linear(given, HIDDEN)
        self.down = nn.Linear(HIDDEN, width, bias=False)
        nn.init.normal_(self.straight.weight, std=word_std / (table_std * given**0.5))
        nn.init.normal_(self.up.weight, std=1 / (table_std * given**0.5))
        nn.init.zeros_(self.up.bias)
        nn.init.normal_(self.down.weight, std=word_std / HIDDEN**0.5)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map embeddings, shape (..., d_T), to (..., d_S)."""
        bent = self.down(nn.functional.gelu(self.up(embeddings)))
        mapped: torch.Tensor = self.straight(embeddings) + bent
        return mapped


class Student(nn.Module):
    """Adapter, encoder and head; the encoder is a stock one of transformers."""

    start: torch.Tensor

    def __init__(self, encoder: PreTrainedModel, start: torch.Tensor, table_std: float) -> None:
        super().__init__()
        words = encoder.get_input_embeddings()
        width, word_std = words.embedding_dim, float(words.weight.detach().float().std())
        self.adapter: nn.Linear | DeepAdapter
        # The encoder meets what it expects: outputs as wide as its own word embeddings.
        if getattr(encoder.config, "num_hidden_layers", 1):
            self.adapter = nn.Linear(len(start), width, bias=False)
            nn.init.normal_(self.adapter.weight, std=word_std / (table_std * len(start) ** 0.5))
        else:
            self.adapter = DeepAdapter(len(start), width, table_std, word_std)
        encoder.set_input_embeddings(nn.Embedding(1, width))
        self.encoder = encoder
        # A copy: with a row's view a checkpoint would hold the whole table.
        self.register_buffer("start", start.float().clone())

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the class logits, shape (B, K), of embeddings, shape (B, T, d_T), T may be 0.

        The mask, shape (B, T), is 1 at inputs and 0 at padding behind them; None: no padding.
        """
        start = self.start.expand(len(embeddings), 1, -1)
        inputs = self.adapter(torch.cat([start, embeddings.to(start)], dim=1))
        # Always a mask, the start token's place included: without one some encoders guess.
        seen = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        if mask is not None:
            seen[:, 1:] = mask
        logits: torch.Tensor = self.encoder(inputs_embeds=inputs, attention_mask=seen).logits
        return logits

    def select_parameters(self, body: bool) -> list[nn.Parameter]:
        """Return the encoder's own parameters, or those of adapter and head, which begin anew."""
        inside = {
            id(parameter)
            for name, parameter in self.encoder.named_parameters()
            if not _is_head(self.encoder, name)
        }
        return [p for p in self.parameters() if (id(p) in inside) == body]


def build_encoder(
    arch: str, init: str, labels: tuple[str, ...], max_length: int
) -> PreTrainedModel:
    """Build a stock sequence-classification encoder in float32.

    ``arch`` is a short name of :data:`ARCHITECTURES`, a hub id, or a directory; ``labels`` are in
    column order; ``max_length`` is the longest input in tokens, without the start token.
    """
    from transformers import AutoModelForSequenceClassification

    config = configure_encoder(arch, init, max_length)
    config.update(
        {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
            "problem_type": "single_label_classification",
        }
    )
    if init == "pretrained":
        known = ARCHITECTURES.get(arch)
        encoder = load_weights(
            AutoModelForSequenceClassification,
            known.hub_id if known and known.hub_id else arch,
            "an encoder",
            _is_head,
            config=config,
            dtype=torch.float32,
        )
    else:
        with explained(ModelError, f"cannot build the encoder {arch}"):
            encoder = AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=False, dtype=torch.float32
            )
    # The adapter stands in for a table that tokens are looked up in.
    try:
        words = encoder.get_input_embeddings()
    except NotImplementedError:
        words = None
    if not isinstance(words, nn.Embedding):
        raise ModelError(f"{arch} has no table of word embeddings; use another encoder")
    if any(getattr(module, "is_causal", False) for module in encoder.modules()):
        raise ModelError(f"{arch} is a decoder; students are encoders with a classification head")
    return encoder


def configure_encoder(arch: str, init: str, max_length: int) -> PretrainedConfig:
    """Find an encoder's configuration, without its weights, and check that it can be a student.

    The arguments are those of :func:`build_encoder`.
    """
    if init not in INITS:
        raise SettingError(f"init: got {init!r}, must be one of {', '.join(INITS)}")
    config = _load_config(arch, init)
    if not _is_encoder(config):
        raise ModelError(f"{arch} is no encoder; students are encoders with a classification head")
    with explained(ModelError, f"cannot build the encoder {arch}"):
        if init == "random":
            # Never read: few rows save their initialisation, and special ids beyond them go.
            config.vocab_size, config.pad_token_id = 1024, 0
            for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
                if hasattr(config, name):
                    setattr(config, name, None)
        room = find_room(config)
    if room is not None and max_length + 1 > room:
        if init == "pretrained":
            raise ModelError(
                f"{arch} reads at most {room - 1} tokens behind the start token, the task's "
                f"inputs have up to {max_length}; lower the task's max_length"
            )
        config.max_position_embeddings += max_length + 1 - room
    return config


def find_room(config: PretrainedConfig) -> int | None:
    """Return the longest input that an encoder of a configuration allows, or None."""
    if getattr(config, "max_position_embeddings", None) is None:
        return None
    return find_longest_input(_make_shape(config))


def _load_config(arch: str, init: str) -> PretrainedConfig:
    from transformers import AutoConfig

    known = ARCHITECTURES.get(arch)
    if known is not None and init == "random":
        return AutoConfig.for_model(known.model_type, **known.settings)
    if known is not None and known.hub_id is None:
        raise SettingError(
            f"{arch} has no pretrained weights; start it at random", Settings(("init",))
        )
    if known is None and Path(arch).exists():
        return load_config(Path(arch), "encoder")
    where = "" if known else f" (short names are {', '.join(ARCHITECTURES)})"
    hint = "start it at random, or " if known else ""
    fault = f"cannot load the encoder {arch}{where}: {hint}give the directory of a model"
    with explained(ModelError, f"{fault} that is here"):
        return AutoConfig.from_pretrained(known.hub_id if known else arch, trust_remote_code=False)


def _is_encoder(config: PretrainedConfig) -> bool:
    """Whether every position sees the whole input: decoders are told by what they are for."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_decoder", False) or config.is_encoder_decoder:
        return False
    if config.model_type not in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return False
    masked = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return masked or config.model_type not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _is_head(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight belongs to what stands on the encoder, which begins anew anyway."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _make_shape(config: PretrainedConfig) -> PreTrainedModel:
    """Return a configuration's encoder without its weights."""
    from transformers import AutoModel

    with torch.device("meta"):
        model: PreTrainedModel = AutoModel.from_config(config)
    return model
