"""Encoders that have a short name, each as its makers published it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Where an encoder's weights are, if there are pretrained ones, and its configuration.

    The configuration is its type in transformers, and what differs from that type's defaults.
    """

    hub_id: str | None
    model_type: str
    settings: dict[str, Any]


def _size(width: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
MODERNBERT = {"classifier_pooling": "mean"}

ARCHITECTURES = {
    "static": Architecture(
        # A transformer without layers: a norm, the mean over the input, a head with one hidden
        # layer.  Of the encoders that take a masked mean, this is the one that may have no layer.
        None,
        "eurobert",
        {**_size(128, 0, 1, 1), "classifier_pooling": "mean", "mask_token_id": 0},
    ),
    "mini": Architecture(
        None,
        "modernbert",
        {
            **_size(128, 3, 4, 256),
            **MODERNBERT,
            "max_position_embeddings": 1024,
            "global_attn_every_n_layers": 1,
        },
    ),
    "minilm": Architecture("nreimers/MiniLM-L6-H384-uncased", "bert", _size(384, 6, 12, 1536)),
    "distilbert": Architecture("distilbert/distilbert-base-uncased", "distilbert", {}),
    "bert-base": Architecture("google-bert/bert-base-uncased", "bert", {}),
    "modernbert-base": Architecture("answerdotai/ModernBERT-base", "modernbert", MODERNBERT),
    "xlm-roberta-base": Architecture("FacebookAI/xlm-roberta-base", "xlm-roberta", ROBERTA),
    "roberta-base": Architecture("FacebookAI/roberta-base", "roberta", ROBERTA),
    "roberta-large": Architecture(
        "FacebookAI/roberta-large", "roberta", {**_size(1024, 24, 16, 4096), **ROBERTA}
    ),
}
