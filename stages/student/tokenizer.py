"""A student's tokenizer: the language model's, with the start token first.

Some encoders reserve an id whatever the vocabulary: MPNet takes 1 for padding and skips it when it
counts positions.  In a language model's vocabulary 1 is a token like any other, so that token gets
an id behind all others, and the padding token that the encoder expects gets the freed one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.errors import ExportError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PADDING = "<pad\ufdd0>"
"""The padding token's spelling: U+FDD0 is no character, so that no text holds it."""

TRIED_TOKENS = 4096
"""Tokens of a vocabulary whose texts a remapped tokenizer is tried on."""


@dataclass(frozen=True)
class TokenRemap:
    """One token id that was given away."""

    source: int  # the id that the encoder reserves
    target: int  # what its token has now: the number of the language model's embeddings

    def apply(self, ids: Any) -> Any:
        """Return ids of the language model as the student's, an integer array or tensor."""
        return ids + (ids == self.source) * (self.target - self.source)


def build_tokenizer(
    files: Mapping[str, bytes], start_id: int, max_length: int, remap: TokenRemap | None = None
) -> PreTrainedTokenizerFast:
    """Return the language model's tokenizer as the student needs it.

    It puts the start token first, adds nothing else, reads control tokens in texts as plain text,
    and pads and cuts on the right, at ``max_length`` tokens behind the start token.
    """
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    if "tokenizer.json" not in files:
        raise ExportError(
            "the language model's tokenizer has no tokenizer.json, which students are served with"
        )
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
    start = tokenizer.id_to_token(start_id)
    if remap is not None:
        tokenizer, start_id = remap_tokenizer(tokenizer, remap), remap.apply(start_id)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, start_id)]
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    specials = {
        name: token["content"] if isinstance(token, dict) else token
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (token := config.get(name))
    }
    if remap is not None:
        specials["pad_token"] = PADDING
    # A language model seldom has a padding token; what stands under the mask is never read.
    specials.setdefault("pad_token", specials.get("eos_token") or start)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length + 1,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **specials,
    )


def remap_tokenizer(tokenizer: Tokenizer, remap: TokenRemap) -> Tokenizer:
    """Return a tokenizer that cuts as another does, with one id moved and freed for padding."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"].get("vocab")
    if not isinstance(vocabulary, dict) or tokenizer.id_to_token(remap.target) is not None:
        raise ExportError(
            f"the encoder reserves the token id {remap.source}, which cannot be freed in the "
            f"language model's tokenizer ({state['model']['type']}); use another encoder"
        )
    for token in state["added_tokens"]:
        # Those outside the vocabulary would be numbered anew, behind one token more than before.
        vocabulary.setdefault(token["content"], token["id"])
        if token["id"] == remap.source:
            token["id"] = remap.target
    moved = tokenizer.id_to_token(remap.source)
    if moved is not None:
        vocabulary[moved] = remap.target
    vocabulary[PADDING] = remap.source
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    padding = {"id": remap.source, "content": PADDING, "special": True, **flags}
    state["added_tokens"] = sorted([*state["added_tokens"], padding], key=lambda token: token["id"])
    remapped = Tokenizer.from_str(json.dumps(state))
    # Cut texts with both: every added token between words, and the texts of the first tokens.
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    count = min(TRIED_TOKENS, tokenizer.get_vocab_size())
    tokens = [tokenizer.decode([id_]) for id_ in range(count)]
    for text in [f"a{token} b {token}" for token in added] + tokens + ["".join(tokens)]:
        wanted = tokenizer.encode(text, add_special_tokens=False).ids
        found = remapped.encode(text, add_special_tokens=False).ids
        if [remap.target if id_ == remap.source else id_ for id_ in wanted] != found:
            raise ExportError(
                f"the encoder reserves the token id {remap.source}, and with that id freed the "
                f"language model's tokenizer cuts {text[:40]!r} otherwise; use another encoder"
            )
    return remapped
