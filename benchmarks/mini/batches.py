"""Batches for the mini teacher's recipe: which window of which text, cut, padded and framed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from stages.errors import TextDataError
from stages.tasks import Task, Verbaliser, build_verbaliser, frame_task, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOS, EOS = "<s>", "</s>"
SPECIALS = 2  # ids below this are special tokens
Phase = tuple[int, tuple[float, ...], float]
"""Passes, each over another window of every text, under one cycle of the learning rate; the share
of each task's texts that a pass takes; the cycle's peak (linear warm-up, cosine decay to 0)."""
Item = tuple[int, int, int]  # an example's number, its window's start and its end


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on besides the data."""

    tasks: tuple[str, ...] = ("imdb", "ag_news", "reddit")
    # Tasks whose labels count alike, because the full data set is balanced.
    balanced: tuple[str, ...] = ("imdb", "ag_news")
    vocabulary: int = 8192
    width: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 344
    # The second evens out that tasks with short texts get few steps of the first.
    phases: tuple[Phase, ...] = (
        (4, (1.0, 1.0, 1.0), 2e-3),
        (7, (0.07, 0.43, 1.0), 1.5e-3),
    )
    batch_tokens: int = 4096  # positions a batch, padding included
    noise: float = 0.1  # share of text positions whose input is replaced by a random token
    text_weight: float = 0.3  # of the next-token loss
    text_share: float = 0.15  # of text positions that it is computed at
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """One training text of one task, as tokens."""

    task: int
    label: int
    ids: np.ndarray


@dataclass(frozen=True)
class Frame:
    """A task's fixed tokens."""

    task: Task
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    verbaliser: Verbaliser
    words: list[list[int]]  # first tokens of each label's words
    weights: list[float]  # what an answer of each label counts


@dataclass(frozen=True)
class Batch:
    """One batch of framed, right-padded rows."""

    ids: torch.Tensor  # input tokens, (B, T)
    targets: torch.Tensor  # the token to predict at each position or -1, (B, T)
    answer_at: torch.Tensor  # position that the answer is read at, (B,)
    words: torch.Tensor  # first tokens of the right label's words, padded with -1, (B, W)
    weights: torch.Tensor  # of each row's answer, (B,), float32


def build_frames(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, labels: list[list[str]]
) -> list[Frame]:
    """Cut each task's prompt, suffix and label words into tokens."""
    frames = []
    for name, names in zip(recipe.tasks, labels, strict=True):
        # The mini teacher learns each word by its first token.
        task = replace(load_task(name), word_score="first-token", label_score="max")
        counts = Counter(names)
        unknown = sorted(set(counts) - set(task.label_names))
        if unknown:
            raise TextDataError(f"{name}: the labels {unknown} are not in the task file")
        weights = [
            len(names) / (len(task.labels) * counts[label]) if name in recipe.balanced else 1.0
            for label in task.label_names
        ]
        frame, verbaliser = frame_task(task, tokenizer), build_verbaliser(task, tokenizer)
        words: list[list[int]] = [[] for _ in task.labels]
        for token, column in zip(verbaliser.token_ids, verbaliser.columns, strict=True):
            words[column].append(token)
        frames.append(Frame(task, frame.prefix_ids, frame.suffix_ids, verbaliser, words, weights))
    return frames


def draw_window(length: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    """Choose which part of a text one pass sees: as much as the task allows, or any window.

    Short windows teach the model to answer from few words, as random inputs will ask of it.
    """
    size = longest if rng.random() < 0.35 else int(rng.integers(min(8, longest), longest + 1))
    if length <= size:
        return 0, length
    start = 0 if rng.random() < 0.5 else int(rng.integers(0, length - size + 1))
    return start, start + size


def plan_pass(
    examples: list[Example],
    frames: list[Frame],
    recipe: Recipe,
    index: int,
    shares: tuple[float, ...],
) -> list[list[Item]]:
    """Cut one pass over the examples into batches of like length."""
    rng = np.random.default_rng((recipe.seed, index))
    items = []
    for number in rng.permutation(len(examples)):
        example = examples[number]
        if shares[example.task] < 1 and rng.random() >= shares[example.task]:
            continue
        longest = frames[example.task].task.max_length
        items.append((int(number), *draw_window(len(example.ids), longest, rng)))
    batches = []
    pool = 4096  # long enough for equal lengths, short enough to keep the order random
    for begin in range(0, len(items), pool):
        batch: list[Item] = []
        for item in sorted(items[begin : begin + pool], key=lambda item: item[2] - item[1]):
            if batch and (len(batch) + 1) * (item[2] - item[1] + 20) > recipe.batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(item)
        batches.append(batch)
    return [batches[number] for number in rng.permutation(len(batches))]


def collate_batch(
    items: list[Item],
    examples: list[Example],
    frames: list[Frame],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Batch:
    """Frame and pad the windows of one batch, with noise at the input and targets at a share."""
    rows, targets = [], []
    for number, start, end in items:
        example = examples[number]
        frame = frames[example.task]
        text = example.ids[start:end]
        random_ids = rng.integers(SPECIALS, recipe.vocabulary, len(text))
        noisy = np.where(rng.random(len(text)) < recipe.noise, random_ids, text)
        answer = frame.words[example.label][0]
        row = np.concatenate([frame.prefix, noisy, frame.suffix, [answer]])
        # Shifted by one: what follows each position, the end of the text behind the answer.
        target = np.concatenate([frame.prefix[1:], text, frame.suffix, [answer, SPECIALS - 1]])
        wanted = rng.random(len(row)) < recipe.text_share
        wanted[: len(frame.prefix) - 1] = False
        wanted[-2:] = False, True
        rows.append(torch.from_numpy(row))
        targets.append(torch.from_numpy(np.where(wanted, target, -1)))
    chosen = [examples[number] for number, _, _ in items]
    words = [torch.tensor(frames[example.task].words[example.label]) for example in chosen]
    weights = [frames[example.task].weights[example.label] for example in chosen]
    # Padding stands behind the answer, where the causal mask alone keeps it out.
    return Batch(
        pad_sequence(rows, batch_first=True, padding_value=SPECIALS - 1),
        pad_sequence(targets, batch_first=True, padding_value=-1),
        torch.tensor([len(row) - 2 for row in rows]),
        pad_sequence(words, batch_first=True, padding_value=-1),
        torch.tensor(weights),
    )
