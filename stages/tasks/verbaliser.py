"""The verbaliser: label words to token ids, next-token logits to class logits and probabilities.

A word's score is the logarithm of the probability of all its tokens, a label's that of the sum over
its words; or, where a task asks for the paper's way (section 4.1), the first token's logit and the
maximum.  The class probabilities are the softmax over the labels' scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stages.errors import TaskError
from stages.tasks.frame import encode_behind, frame_task
from stages.tasks.spellings import WordTokens, choose_spellings, spell_word
from stages.tasks.word_trie import Question, Tree, grow_tree

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from stages.tasks.task import Task

SPACES = ("Ġ", "▁")
"""Tokens that are a space alone, in byte-level vocabularies and in SentencePiece's."""

SPACE_ADVICE = "it is the space in front of them: end the task's suffix with a line break"


@dataclass(frozen=True)
class Verbaliser:
    """The label words of one task under one tokenizer."""

    words: tuple[WordTokens, ...]  # of every label, labels in column order
    columns: tuple[int, ...]  # of the label of each word that counts
    labels: tuple[str, ...]  # names in column order
    label_score: str = "max"  # or sum, over a label's words

    @property
    def token_ids(self) -> tuple[int, ...]:
        """First-token ids of the words that count."""
        return tuple(word.token_id for word in self.words if word.counts)

    @property
    def is_whole(self) -> bool:
        """Whether words are scored by all of their tokens."""
        return self.words[0].spellings is not None

    @property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """The tokens that are scored: first tokens, or those of each spelling of each word."""
        return tuple(
            tokens
            for word in self.words
            if word.counts
            for tokens in ([(word.token_id,)] if word.spellings is None else word.spellings)
        )

    @cached_property
    def tree(self) -> Tree:
        """What is read behind a row."""
        return grow_tree([Question(self.sequences)])

    def describe_scores(self) -> str:
        """Return a line on how words and labels are scored."""
        words = "the logit of its first token"
        if self.is_whole:
            words = (
                f"all its tokens, {len(self.sequences)} spellings of {len(self.words)} words, "
                f"{len(self.tree.tokens)} positions more a row"
            )
        return f"score of a word: {words}; of a label: the {self.label_score} over its words"

    def describe_splits(self) -> list[str]:
        """Return one warning a word that does not count or that its first token stands for."""
        if self.is_whole:
            return [
                f"label {word.label!r}: the word {word.word!r} is counted with another word of the "
                "label that it begins with"
                for word in self.words
                if not word.counts
            ]
        vague = "begins many other words, so it is left out: the label has whole words"
        space = "is the space in front of any word; to have none, end the suffix with a line break"
        return [
            f"label {word.label!r}: the word {word.word!r} is {len(word.tokens)} tokens "
            f"({' '.join(word.tokens)}); its first token {word.tokens[0]!r} "
            + (vague if not word.counts else space if word.tokens[0] in SPACES else "stands for it")
            for word in self.words
            if len(word.tokens) > 1
        ]

    def compute_class_logits(self, scores: torch.Tensor) -> torch.Tensor:
        """Add up the spellings of each word, and take the maximum or the sum of a label's words.

        The scores are logits or logarithmic probabilities of ``sequences``, shape (B, sequences),
        of any float type; class logits have the shape (B, K), float32.
        """
        import torch

        scores, columns = scores.float(), list(self.columns)
        counted = [word for word in self.words if word.counts]
        owners = [k for k, word in enumerate(counted) for _ in word.spellings or ()]
        if self.is_whole:
            scores = _reduce(scores, owners, torch.logsumexp)
        if self.label_score == "max":
            return _reduce(scores, columns, torch.amax)
        if not self.is_whole:  # words with the same first token are the same answer
            firsts = {token: k for k, token in reversed([*enumerate(self.token_ids)])}
            kept = sorted(firsts.values())
            scores, columns = scores[:, kept], [columns[k] for k in kept]
        return _reduce(scores, columns, torch.logsumexp)


def _reduce(scores: torch.Tensor, owners: list[int], join: Callable[..., Any]) -> torch.Tensor:
    """Join the columns of each owner, which stand side by side; shape (B, owners)."""
    import torch

    parts = scores.split([*Counter(owners).values()], dim=1)
    return torch.stack([join(part, dim=1) for part in parts], dim=1)


def build_verbaliser(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> Verbaliser:
    """Look every label word of a task up in a tokenizer.

    The words are tokenized where they will be read: after the task's suffix (or a colon) and a
    space, or, if ``chat``, where the tokenizer's chat template puts an answer.  No space marks
    there where a word begins, and a first token may be a letter or two of any word: such a word is
    left out where its label has whole ones.

    Raises:
        TaskError: Two labels share a first token, or a word that is scored whole, and so cannot be
            told apart, or a word has no token of its own.
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    frame = frame_task(task, tokenizer, chat)
    before = encode_behind(frame.anchor, tokenizer, chat)
    words: list[WordTokens] = []
    owners: dict[int, WordTokens] = {}
    for label in task.labels:
        found: list[WordTokens] = []
        for word in label.words:
            where = f"task {task.name}: label {label.name!r}: the tokenizer"
            ids = encode_behind(frame.anchor + frame.gap + word, tokenizer, chat)
            shared = _count_shared(before, ids)
            if chat and shared < len(before):
                raise TaskError(
                    f"{where} joins the word {word!r} with the end of the chat template's text, "
                    f"{frame.anchor[-20:]!r}; choose another word"
                )
            if shared == len(ids):
                raise TaskError(
                    f"{where} gives the word {word!r} no token of its own; choose another word"
                )
            tokens = tuple(tokenizer.convert_ids_to_tokens(ids[shared:]))
            entry = WordTokens(label.name, word, tokens, ids[shared])
            if task.word_score == "whole":

                def cut(text: str, shared: int = shared) -> tuple[int, ...] | None:
                    ids = encode_behind(frame.anchor + text, tokenizer, chat)
                    own = _count_shared(before, ids) == shared < len(ids)
                    return tuple(ids[shared:]) if own else None

                found.append(replace(entry, spellings=spell_word(word, frame.gap, cut)))
                continue
            other = owners.setdefault(entry.token_id, entry)
            if other.label != label.name:
                raise TaskError(
                    f"task {task.name}: the labels {other.label!r} and {label.name!r} cannot be "
                    f"told apart: the words {other.word!r} and {word!r} begin with the same token "
                    f"{tokens[0]!r} in this tokenizer; "
                    + (SPACE_ADVICE if tokens[0] in SPACES and not chat else "choose other words")
                    + ", or have them scored as a whole (word_score: whole)"
                )
            found.append(entry)
        whole = any(len(entry.tokens) == 1 for entry in found)
        vague = chat and whole and task.word_score != "whole"
        words += [replace(x, counts=not (vague and _is_vague(x, tokenizer))) for x in found]
    if task.word_score == "whole":
        words = choose_spellings(words, task.name)
    columns = tuple(task.label_names.index(word.label) for word in words if word.counts)
    return Verbaliser(tuple(words), columns, task.label_names, task.label_score)


def _count_shared(before: list[int], ids: list[int]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    return next((k for k, a in enumerate(before) if ids[k : k + 1] != [a]), len(before))


def _is_vague(entry: WordTokens, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the first token of several is at most a letter, or under a third of the word."""
    shown = len(str(tokenizer.decode([entry.token_id])).strip())
    return len(entry.tokens) > 1 and (shown < 2 or 3 * shown < len(entry.word))
