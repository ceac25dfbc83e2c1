"""How an encoder numbers the positions of its inputs.

RoBERTa and its kin count from ``padding id + 1`` and do not count that id, wherever it stands.
Under the language model's vocabulary any id may be a token, so none may be skipped.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from stages.classify.torch_classifier import find_longest_input, list_position_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

OTHER_ID = 3
"""A padding id that no encoder has by itself."""


def find_reserved_id(config: PretrainedConfig) -> int | None:
    """Return the id that encoders skip whatever their configuration's padding id is, or None."""
    other = copy.deepcopy(config)
    other.pad_token_id = OTHER_ID
    layers = list_position_layers(_make_shape(other))
    return next((int(x.padding_idx) for x in layers if x.padding_idx != OTHER_ID), None)


def find_room(config: PretrainedConfig) -> int | None:
    """Return the longest input that an encoder of a configuration allows, or None."""
    if getattr(config, "max_position_embeddings", None) is None:
        return None
    return find_longest_input(_make_shape(config))


def number_from_zero(encoder: PreTrainedModel) -> None:
    """Let an encoder count positions from 0 and skip no id, if it counts as RoBERTa does.

    The rows of the position table that were never used go.
    """
    for embeddings in list_position_layers(encoder):
        used = embeddings.position_embeddings.weight.detach()[embeddings.padding_idx + 1 :].clone()
        embeddings.position_embeddings = nn.Embedding.from_pretrained(used, freeze=False)
        embeddings.padding_idx = -1
        for name in ("position_ids", "token_type_ids"):
            buffer = getattr(embeddings, name, None)
            if isinstance(buffer, torch.Tensor):
                setattr(embeddings, name, buffer[:, : len(used)])
        # No id is -1, so none is skipped.
        encoder.config.pad_token_id = -1
        encoder.config.max_position_embeddings = len(used)


def _make_shape(config: PretrainedConfig) -> PreTrainedModel:
    """Return a configuration's encoder without its weights."""
    from transformers import AutoModel

    with torch.device("meta"):
        model: PreTrainedModel = AutoModel.from_config(config)
    return model
