"""Classifiers in torch: any sequence-classification directory of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stages import checkpoints
from stages.classify.classifier import MAX_TOKENS, Classifier, choose_scores
from stages.devices import choose_device
from stages.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_torch_classifier(folder: Path, device: str) -> Classifier:
    """Load a sequence-classification model's directory, or raise SettingError or ModelError."""
    chosen = choose_device(device)
    model = load_model(folder).to(chosen.value)
    device = f"{chosen.value} ({chosen.reason})"
    if chosen.value == "cpu":
        threads = torch.get_num_threads()
        device += f", {threads} thread{'s' * (threads > 1)}"
    return wrap_model(model, checkpoints.load_tokenizer(folder), device)


def load_model(folder: Path) -> PreTrainedModel:
    """Load a classifier in float32 on the CPU, in evaluation mode, or raise ModelError."""
    from transformers import AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification
    return checkpoints.load_weights(kind, str(folder), "a classifier", dtype=torch.float32).eval()


def wrap_model(model: Any, tokenizer: Any, device: str) -> Classifier:
    """Return a model in evaluation mode as a classifier; ``device`` says where and why.

    Tokens that it has no embedding of are cut as plain text.
    """
    tokenizer = checkpoints.restrict_tokenizer(
        tokenizer, model.get_input_embeddings().num_embeddings
    )

    def encode(texts: list[str], limit: int) -> Sequence[Sequence[int]]:
        # As plain text, whatever control tokens it spells.
        settings = {"truncation": True, "max_length": limit, "split_special_tokens": True}
        encoded = tokenizer(texts, **settings)
        ids: Sequence[Sequence[int]] = encoded["input_ids"]
        return ids

    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs, attended = (torch.from_numpy(part).to(model.device) for part in (ids, mask))
        with checkpoints.explained(ModelError, f"{type(model).__name__} failed"):
            output = model(input_ids=inputs, attention_mask=attended)
        logits: np.ndarray = output.logits.float().cpu().numpy()
        return logits

    config, pad = model.config, tokenizer.pad_token_id
    if config.pad_token_id is None:
        config.pad_token_id = pad  # decoders look for a row's end by it
    pad = config.pad_token_id if pad is None else pad
    return Classifier(
        encode,
        run,
        labels=tuple(str(config.id2label[k]) for k in range(config.num_labels)),
        max_length=min(int(tokenizer.model_max_length), find_longest_input(model) or MAX_TOKENS),
        pad_id=pad or 0,
        device="; ".join(filter(None, (device, checkpoints.describe_lost(tokenizer)))),
        # Without a padding token, rows of one length each.
        batch_rows=1 if pad is None else 64,
        scores=choose_scores(config.problem_type, config.num_labels),
    )


def find_longest_input(model: nn.Module) -> int | None:
    """Return the longest input, in tokens, that a model's position table allows, or None."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[operator,union-attr]
    if longest is None or longest <= 0:
        return None
    skipped = next((int(layer.padding_idx) + 1 for layer in list_position_layers(model)), 0)
    return int(longest) - skipped


def list_position_layers(model: nn.Module) -> list[Any]:
    """Return the layers that count positions as RoBERTa's do, from behind the id that they skip."""
    counts = "create_position_ids_from_inputs_embeds"
    return [layer for layer in model.modules() if hasattr(layer, counts)]
