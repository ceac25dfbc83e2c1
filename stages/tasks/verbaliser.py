"""The verbaliser: label words to token ids, next-token logits to class logits and probabilities.

A label's logit is the maximum over its words' first-token logits, and the class probabilities are
the softmax over the labels' logits (paper, section 4.1, "Setup").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stages.errors import TaskError
from stages.tasks.frame import encode_behind, frame_task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from stages.tasks.task import Task

SPACES = ("Ġ", "▁")
"""Tokens that are a space alone, in byte-level vocabularies and in SentencePiece's."""

SPACE_ADVICE = "it is the space in front of them: end the task's suffix with a line break"


@dataclass(frozen=True)
class WordTokens:
    """How a tokenizer splits one label word where it follows the prompt."""

    label: str
    word: str
    tokens: tuple[str, ...]
    token_id: int  # of the first token, whose logit stands for the word
    counts: bool = True  # whether it does; not where its label has better ones


@dataclass(frozen=True)
class Verbaliser:
    """The label words of one task under one tokenizer."""

    words: tuple[WordTokens, ...]  # of every label, labels in column order
    columns: tuple[int, ...]  # of the label of each word that counts
    labels: tuple[str, ...]  # names in column order

    @property
    def token_ids(self) -> tuple[int, ...]:
        """First-token ids of the words that count: the only vocabulary rows ever multiplied."""
        return tuple(word.token_id for word in self.words if word.counts)

    def describe_splits(self) -> list[str]:
        """Return one warning a word of several tokens, naming the token that stands for it."""
        vague = "begins many other words, so it is left out: the label has whole words"
        space = "is the space in front of any word; to have none, end the suffix with a line break"
        return [
            f"label {word.label!r}: the word {word.word!r} is {len(word.tokens)} tokens "
            f"({' '.join(word.tokens)}); its first token {word.tokens[0]!r} "
            + (vague if not word.counts else space if word.tokens[0] in SPACES else "stands for it")
            for word in self.words
            if len(word.tokens) > 1
        ]

    def compute_class_logits(self, word_logits: torch.Tensor) -> torch.Tensor:
        """Take the maximum over each label's words.

        Args:
            word_logits: Logits of ``token_ids``, shape (B, words), any float type.

        Returns:
            Class logits, shape (B, K), float32.
        """
        import torch

        word_logits = word_logits.float()
        columns = torch.tensor(self.columns, device=word_logits.device)
        per_label = [word_logits[:, columns == k].amax(dim=1) for k in range(len(self.labels))]
        return torch.stack(per_label, dim=1)


def build_verbaliser(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool = False
) -> Verbaliser:
    """Look every label word of a task up in a tokenizer.

    The words are tokenized where they will be read: after the task's suffix (or after a colon,
    where it has none) and a space, since most tokenizers split a word at the start of a text
    differently; or, if ``chat``, where the tokenizer's chat template puts an answer.

    With a chat template no space marks where a word begins, and a first token may be a letter or
    two of any word.  Such a word is left out where its label has whole ones.

    Raises:
        TaskError: Two labels share a first token and so cannot be told apart, or a word has no
            token of its own.
        ModelError: The tokenizer has no chat template, or the template cannot be used.
    """
    frame = frame_task(task, tokenizer, chat)
    before = encode_behind(frame.anchor, tokenizer, chat)
    words: list[WordTokens] = []
    columns: list[int] = []
    owners: dict[int, WordTokens] = {}
    for column, label in enumerate(task.labels):
        found: list[WordTokens] = []
        for word in label.words:
            where = f"task {task.name}: label {label.name!r}: the tokenizer"
            ids = encode_behind(frame.anchor + frame.gap + word, tokenizer, chat)
            pairs = enumerate(zip(before, ids, strict=False))
            shared = next((k for k, (a, b) in pairs if a != b), min(len(before), len(ids)))
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
            other = owners.setdefault(entry.token_id, entry)
            if other.label != label.name:
                raise TaskError(
                    f"task {task.name}: the labels {other.label!r} and {label.name!r} cannot be "
                    f"told apart: the words {other.word!r} and {word!r} begin with the same token "
                    f"{tokens[0]!r} in this tokenizer; "
                    + (SPACE_ADVICE if tokens[0] in SPACES and not chat else "choose other words")
                )
            found.append(entry)
        whole = any(len(entry.tokens) == 1 for entry in found)
        for entry in found:
            vague = chat and whole and _is_vague(entry, tokenizer)
            words.append(replace(entry, counts=not vague))
            columns += [] if vague else [column]
    return Verbaliser(tuple(words), tuple(columns), task.label_names)


def _is_vague(entry: WordTokens, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the first token of several is at most a letter, or under a third of the word."""
    shown = len(str(tokenizer.decode([entry.token_id])).strip())
    return len(entry.tokens) > 1 and (shown < 2 or 3 * shown < len(entry.word))
