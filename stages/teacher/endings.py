"""Where written texts end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLANK_LINE = r"\n\s*\n"
_BYTES = str.maketrans("ĠĊčĉ", " \n\r\t")  # as vocabularies of bytes write white space


class Endings:
    """What a vocabulary's tokens mean for the end of a text; arrays are of shape (V,), bool.

    A text ends in front of any control token, a blank line, or the suffix, given by its tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], suffix: Sequence[int] = ()
    ) -> None:
        ids = range(max(tokenizer.get_vocab().values()) + 1)  # in which there may be holes
        names = [x or "" for x in tokenizer.convert_ids_to_tokens(list(ids))]
        # What stands for a byte in one vocabulary is a letter in another.
        if "Ċ" in names and tokenizer.decode([names.index("Ċ")]) == "\n":
            self.pieces = [name.translate(_BYTES) for name in names]
        else:
            self.pieces = [name.replace("▁", " ").replace("<0x0A>", "\n") for name in names]
        self._ids = {piece: k for k, piece in reversed([*enumerate(self.pieces)])}
        control = [k for k, token in tokenizer.added_tokens_decoder.items() if token.special]
        control += [k for k, name in enumerate(names) if not name]
        self._ends = {*ends, *tokenizer.all_special_ids, *control}
        behind = "".join(self.pieces[k] for k in suffix)
        self._over = re.compile(f"{BLANK_LINE}|{re.escape(behind)}" if behind else BLANK_LINE)
        is_end = np.isin(np.arange(len(names)), [*self._ends])
        self.can_end = is_end | [not {"\n", *behind[-1:]}.isdisjoint(x) for x in self.pieces]
        # No text begins with what would leave nothing of it in front of its end.
        lead = behind or "\n"
        self.cannot_begin = is_end | [
            "\n" in x or x != x.rstrip() or lead.startswith(x) or x.startswith(lead)
            for x in self.pieces
        ]

    def cut(self, ids: list[int], is_last: bool) -> list[int] | None:
        r"""Return the tokens of a text that is at its end, without white space; None: it goes on.

        Of ".\n\n" the "." stays.  ``is_last``: there is no room for another token.
        """
        if ids[-1] in self._ends:
            ids, is_last = ids[:-1], True
        text = "".join(self.pieces[k] for k in ids)
        over = self._over.search(text)
        if not over and not is_last:
            return None
        kept = text[: over.start() if over else None].rstrip()
        while len(text) > len(kept):
            text, ids = text[: len(text) - len(self.pieces[ids[-1]])], ids[:-1]
            if len(text) < len(kept):
                head = self._ids.get(kept[len(text) :])
                return ids if head is None else [*ids, head]
        return ids


def find_end_ids(model: Any) -> list[int]:
    """Return the token ids by which a model ends a text."""
    settings = (getattr(model, "generation_config", None), model.config.get_text_config())
    known = (getattr(own, "eos_token_id", None) for own in settings)
    return [int(end) for end in np.unique(next((x for x in known if x is not None), []))]
