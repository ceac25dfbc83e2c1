"""How an encoder numbers the positions of its inputs.

RoBERTa and its kin count from ``padding id + 1`` and do not count that id, wherever it stands.
Under the language model's vocabulary any id may be a token, so none may be skipped.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

OTHER_ID = 3
"""A padding id that no encoder has by itself."""


def find_reserved_id(config: PretrainedConfig) -> int | None:
    """Return the id that encoders skip whatever their configuration's padding id is, or None."""
    other = copy.deepcopy(config)
    other.pad_token_id = OTHER_ID
    skipped = _find_skipped_id(other)
    return None if skipped == OTHER_ID else skipped


def find_longest_input(config: PretrainedConfig) -> int | None:
    """Return the longest input that an encoder's position table allows, or None."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None or longest <= 0:
        return None
    skipped = _find_skipped_id(config)
    return int(longest) - (0 if skipped is None else skipped + 1)


def number_from_zero(encoder: PreTrainedModel) -> None:
    """Let an encoder count positions from 0 and skip no id, if it counts as RoBERTa does.

    The rows of the position table that were never used go.
    """
    for embeddings in _find_position_embeddings(encoder):
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


def _find_skipped_id(config: PretrainedConfig) -> int | None:
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return next((int(layer.padding_idx) for layer in _find_position_embeddings(model)), None)


def _find_position_embeddings(model: nn.Module) -> list[Any]:
    """Return the layers that count positions as RoBERTa's do."""
    counts = "create_position_ids_from_inputs_embeds"
    return [layer for layer in model.modules() if hasattr(layer, counts)]
