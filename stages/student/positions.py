"""How an encoder numbers the positions of its inputs.

RoBERTa and its kin count from ``padding id + 1`` and do not count that id, wherever it stands.
Under the language model's vocabulary any id may be a word, so none may be skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class PositionOffset:
    """How an encoder numbers positions.

    Attributes:
        offset: Number of the first position; the position table's rows below it are never used.
        reserved: Id that is skipped whatever the configuration says, or None.
    """

    offset: int = 0
    reserved: int | None = None


def read_position_offset(config: PretrainedConfig) -> PositionOffset:
    """Find out how encoders of a configuration number positions."""
    skipped = _find_skipped(config)
    if skipped is None:
        return PositionOffset()
    other = copy.deepcopy(config)
    other.pad_token_id = skipped - 1 if skipped else 1
    return PositionOffset(skipped + 1, skipped if _find_skipped(other) == skipped else None)


def find_longest_input(config: PretrainedConfig) -> int | None:
    """Return the longest input that an encoder's position table allows, or None."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None or longest <= 0:
        return None
    return int(longest) - read_position_offset(config).offset


def number_from_zero(encoder: PreTrainedModel) -> None:
    """Let an encoder count positions from 0 and skip no id, if it counts as RoBERTa does.

    The rows of the position table that were never used go.
    """
    for embeddings in _find_counters(encoder):
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


def _find_skipped(config: PretrainedConfig) -> int | None:
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return next((int(embeddings.padding_idx) for embeddings in _find_counters(model)), None)


def _find_counters(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_inputs_embeds"):
            yield module
