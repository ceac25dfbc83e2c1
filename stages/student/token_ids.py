"""Tokenizers with one id freed, for encoders that reserve an id whatever the vocabulary.

MPNet takes id 1 for padding and skips it when it counts positions.  In a language model's
vocabulary 1 is a word like any other, so that word gets an id behind all others, and the padding
token that the encoder expects gets the freed one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.errors import ExportError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING = "<pad\ufdd0>"
"""The padding token's spelling: U+FDD0 is no character, so that no text holds it."""

TRIED_TOKENS = 4096
"""Tokens of a vocabulary whose texts a renumbered tokenizer is tried on."""


@dataclass(frozen=True)
class TokenRemap:
    """One id that was given away.

    Attributes:
        source: The id that the encoder reserves.
        target: The id that its word has now; the number of the language model's embeddings.
    """

    source: int
    target: int

    def apply(self, ids: Any) -> Any:
        """Return ids of the language model as the student's, an integer array or tensor."""
        return ids + (ids == self.source) * (self.target - self.source)


def remap_tokenizer(core: Tokenizer, move: TokenRemap) -> Tokenizer:
    """Return a tokenizer that cuts as another does, with one id moved and freed for padding.

    Args:
        core: The language model's tokenizer.
        move: Which id goes where.

    Returns:
        A tokenizer whose padding token is :data:`PADDING` with the id ``move.source``.

    Raises:
        ExportError: The tokenizer is of a kind whose ids cannot be moved.
    """
    from tokenizers import Tokenizer

    state = json.loads(core.to_str())
    vocabulary = state["model"].get("vocab")
    if not isinstance(vocabulary, dict) or core.id_to_token(move.target) is not None:
        raise ExportError(
            f"the encoder reserves the token id {move.source}, which cannot be freed in the "
            f"language model's tokenizer ({state['model']['type']}); use another encoder"
        )
    for token in state["added_tokens"]:
        # Those outside the vocabulary would be numbered anew, behind one token more than before.
        vocabulary.setdefault(token["content"], token["id"])
        if token["id"] == move.source:
            token["id"] = move.target
    moved = core.id_to_token(move.source)
    if moved is not None:
        vocabulary[moved] = move.target
    vocabulary[PADDING] = move.source
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    padding = {"id": move.source, "content": PADDING, "special": True, **flags}
    state["added_tokens"] = sorted([*state["added_tokens"], padding], key=lambda token: token["id"])
    made = Tokenizer.from_str(json.dumps(state))
    _compare(core, made, move)
    return made


def _compare(core: Tokenizer, made: Tokenizer, move: TokenRemap) -> None:
    """Cut texts with both: every added token between words, and the first tokens' self-generated texts."""
    added = [token.content for token in core.get_added_tokens_decoder().values()]
    tokens = [core.decode([id_]) for id_ in range(min(TRIED_TOKENS, core.get_vocab_size()))]
    texts = [f"a{token} b {token}" for token in added] + tokens + ["".join(tokens)]
    for text in texts:
        before, after = (one.encode(text, add_special_tokens=False).ids for one in (core, made))
        if [move.target if id_ == move.source else id_ for id_ in before] != after:
            raise ExportError(
                f"the encoder reserves the token id {move.source}, and with that id freed the "
                f"language model's tokenizer cuts {text[:40]!r} otherwise; use another encoder"
            )
