"""The spellings of label words that are scored as a whole: with another case, with no space."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from stages.errors import TaskError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class WordTokens:
    """How a tokenizer splits one label word where it follows the prompt."""

    label: str
    word: str
    tokens: tuple[str, ...]
    token_id: int  # of the first token, whose logit stands for a word that is not scored whole
    counts: bool = True  # whether it does; not where its label has better words
    spellings: tuple[Tokens, ...] | None = None  # tokens, its own first; None: not scored whole

    @property
    def stands_for(self) -> Any:
        """What is read for the word, as a cache's manifest states it."""
        return self.token_id if self.spellings is None else [list(x) for x in self.spellings]


def spell_word(word: str, gap: str, cut: Callable[[str], Tokens | None]) -> tuple[Tokens, ...]:
    """Return the tokens of a word, then those of its other spellings.

    A spelling of more tokens than the word is left out: it is rarer than the word, and every
    further token would cost a position.  The gap is what stands between the text in front and the
    word; ``cut`` returns the tokens of a text there, None where it has none.
    """
    cases = dict.fromkeys((word, word.lower(), word[:1].upper() + word[1:], word.upper()))
    gaps = dict.fromkeys((gap, "", " "))
    found = [tokens for space in gaps for case in cases if (tokens := cut(space + case))]
    return tuple(dict.fromkeys(each for each in found if len(each) <= len(found[0])))


def choose_spellings(words: Sequence[WordTokens], task: str) -> list[WordTokens]:
    """Leave out spellings so that no text counts twice.

    What begins with another spelling of the same label is counted with that one, even a word; a
    spelling that another label shares is left out.  TaskError: a word of a label begins with, or
    is, a word of another.
    """
    every = [(k, tokens) for k, word in enumerate(words) for tokens in word.spellings or ()]
    own = dict(reversed(every))  # the first of each
    for (number, tokens), (k, others) in permutations(own.items(), 2):
        word, other = words[number], words[k]
        if word.label != other.label and _begins(tokens, others):
            raise TaskError(
                f"task {task}: the labels {other.label!r} and {word.label!r} cannot be told apart: "
                f"the tokens of {word.word!r} begin with those of {other.word!r} in this "
                "tokenizer; choose other words"
            )
    kept: list[list[Tokens]] = [[] for _ in words]
    # The shortest first, and words themselves before other spellings of that length.
    for number, tokens in sorted(every, key=lambda x: (len(x[1]), x[1] != own[x[0]])):
        label = words[number].label
        foreign = [x for k, x in every if words[k].label != label]
        same = [x for k, chosen in enumerate(kept) if words[k].label == label for x in chosen]
        shared = any(_begins(tokens, x) or _begins(x, tokens) for x in foreign)
        if not any(_begins(tokens, x) for x in same) and (tokens == own[number] or not shared):
            kept[number].append(tokens)
    return [
        replace(word, spellings=tuple(sorted(x, key=lambda t: t != own[k])), counts=bool(x))
        for k, (word, x) in enumerate(zip(words, kept, strict=True))
    ]


def _begins(tokens: Tokens, other: Tokens) -> bool:
    """Whether tokens begin with others, or are the same."""
    return tokens[: len(other)] == other
