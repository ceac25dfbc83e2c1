"""A model's tokenizer as its embeddings and a text's place demand it.

Texts are cut as plain text: into tokens that have an embedding, behind whatever stands in front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stages.checkpoints.loading import one_line
from stages.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

LOST = "tokens_without_embedding"
"""Setting of a tokenizer: which tokens it was made without, {token: its name in the settings}."""

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
RESIZE = "resize the table (resize_token_embeddings), train it, and save the model again"


def restrict_tokenizer(tokenizer: PreTrainedTokenizerBase, rows: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer without the tokens that a table of so many rows has no embedding of.

    One that has none is returned as it is.  Raises ModelError where it cannot do without them.
    """
    ids = tokenizer.get_vocab()
    lost = sorted((token for token, id_ in ids.items() if id_ >= rows), key=ids.__getitem__)
    if not lost:
        return tokenizer
    names = {getattr(tokenizer, name): name for name in NAMED}
    try:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        drop_tokens(state, rows)
        kept = {LOST: {token: names.get(token, "") for token in lost}}
        restricted = _rebuild(tokenizer, state, **kept)
        restricted("a é\n\U0010fffd")  # the last is in no vocabulary
    except Exception as error:  # tokenizers raises bare ones
        raise ModelError(
            f"the tokens {_list(lost)} have no embedding in the model, whose table has {rows:,} "
            f"rows, and its tokenizer cannot do without them ({one_line(error)}); {RESIZE}"
        ) from error
    return restricted


def drop_tokens(state: dict[str, Any], rows: int) -> None:
    """Take the tokens from an id on out of what ``tokenizer.json`` holds, in place."""
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < rows]
    model = state["model"]
    if isinstance(model["vocab"], list):  # Unigram
        model["vocab"] = model["vocab"][:rows]
        return
    model["vocab"] = kept = {token: id_ for token, id_ in model["vocab"].items() if id_ < rows}
    if "merges" in model:
        begins = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            (a, b) for a, b in model["merges"] if {a, b, a + b.removeprefix(begins)} <= kept.keys()
        ]
        model["unk_token"] = model["unk_token"] if model["unk_token"] in kept else None


def name_lost(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return those of the named tokens that a tokenizer was made without, by name."""
    lost: Mapping[str, str] = tokenizer.init_kwargs.get(LOST) or {}
    return {name: token for token, name in lost.items() if name}


def describe_lost(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Say which tokens of a model have no embedding, and what is done without them."""
    if not (lost := tokenizer.init_kwargs.get(LOST)):
        return None
    named = ", ".join(name.removesuffix("_token") for name in sorted(name_lost(tokenizer)))
    return (
        f"the tokens {_list(lost)}{f' (its {named})' if named else ''} have no embedding in this "
        "model, whose table is shorter than its tokenizer: they are not used, and in texts they "
        "are cut as plain text"
    )


def check_template(text: str, inside: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError if a template writes a token without an embedding around what is inside."""
    for token in tokenizer.init_kwargs.get(LOST) or ():
        if text.count(token) > inside.count(token):
            raise ModelError(
                f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} writes the "
                f"token {token!r}, which has no embedding in this model; turn the template off, or "
                + RESIZE
            )


def has_dummy_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a space is put in front of what begins a text, as SentencePiece and its kin do."""
    before, after = _read_parts(tokenizer)
    return after != before


def make_input_tokenizer(
    tokenizer: PreTrainedTokenizerBase, spaced: bool = False
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that cuts a text as it is cut where something stands in front of it.

    If ``spaced``, the last space of what stands in front is the text's.  A tokenizer that does so
    already is returned as it is.
    """
    before, after = _read_parts(tokenizer)
    if spaced:
        steps = [{"type": "Prepend", "prepend": " "}, after.get("normalizer")]
        after["normalizer"] = {"type": "Sequence", "normalizers": [step for step in steps if step]}
    if after == before:
        return tokenizer
    return _rebuild(tokenizer, json.loads(tokenizer.backend_tokenizer.to_str()) | after)


def _read_parts(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what comes in front of a tokenizer's model, as it is and without a first space."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    names = ("normalizer", "pre_tokenizer")
    parts = {name: part for name in names if (part := getattr(backend, name, None)) is not None}
    before = {name: json.loads(part.__getstate__()) for name, part in parts.items()}
    return before, {name: _drop_space(part) for name, part in before.items()}


def _drop_space(part: Any) -> Any:
    """Return a part of ``tokenizer.json`` that puts no space in front of a text."""
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        return part | {key: [kept for each in part[key] if (kept := _drop_space(each))]}
    if part["type"] == "Metaspace":
        return part | {"prepend_scheme": "never"}
    return None if part["type"] == "Prepend" else part


def _rebuild(
    tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any], **settings: Any
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of other contents, with the settings and named tokens of the one given."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(json.dumps(state))
    named = {name: token for name in NAMED if (token := getattr(tokenizer, name))}
    lost = tokenizer.init_kwargs.get(LOST)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        name_or_path=tokenizer.name_or_path,
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in named.items() if core.token_to_id(token) is not None},
        **({LOST: lost} if lost else {}) | settings,
    )


def _list(tokens: Mapping[str, Any] | list[str]) -> str:
    more = f" and {len(tokens) - 8:,} more" if len(tokens) > 8 else ""
    return ", ".join(map(repr, list(tokens)[:8])) + more
