"""The models, prompts and rows that the teacher is measured with, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from cache.draw import LengthRule, draw_uniform_ids, mix_seeds
from stages.tasks import Label, Task

SEED = 0
CHUNK_ROWS = 64
"""Rows that share one length, as in the teacher stage by default."""
CHUNKS_DRAWN = 4096
PROMPT_WORDS = "is it very good or bad or great or poor"
"""What prompts are made of; each word is one token of :func:`make_tokenizer`'s."""


@dataclass(frozen=True)
class Shape:
    """A Llama, and the inputs it is asked about.

    Attributes:
        layers: Decoder layers.
        width: Length of an embedding.
        inner: Width within the MLP.
        heads: Attention heads.
        vocabulary: Tokens.
        longest: Tokens of the longest input.
        prompts: Tokens of the prompts, BOS included.
    """

    layers: int = 8
    width: int = 512
    inner: int = 1376
    heads: int = 8
    vocabulary: int = 32000
    longest: int = 256
    prompts: tuple[int, ...] = (11, 400)

    def count_operations(self, positions: int, rows: int | None = None) -> float:
        """Count the operations of the layers' products with weights; attention's are not.

        Args:
            positions: Positions that go through the model.
            rows: Rows that they belong to, where the last layer's queries, output and MLP are
                only computed for the last position of each; None: all for all positions.
        """
        keys, rest = 2 * self.width**2, 2 * self.width**2 + 3 * self.width * self.inner
        whole = 2.0 * positions * self.layers * (keys + rest)
        return whole if rows is None else whole - 2.0 * (positions - rows) * rest


SMALL = Shape()
"""What the figures are to be reached with."""
TINY = Shape(2, 64, 96, 4, 1000, 24, (11, 40))
LLAMA_7B = Shape(32, 4096, 11008, 32, 32000, 512, (11,))


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs that all ways of answering share.

    Attributes:
        seeds: What the teacher stage draws them from, shape (N,), uint64.
        lengths: Tokens of each row, shape (N,).
        tokens: The token ids drawn, shape (N, longest); a row's input is the first of them.
    """

    seeds: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray

    @property
    def inputs(self) -> list[np.ndarray]:
        """The token ids of each row."""
        return [ids[:length] for ids, length in zip(self.tokens, self.lengths, strict=True)]

    def select(self, chosen: np.ndarray) -> Rows:
        """Return some of the rows."""
        return Rows(self.seeds[chosen], self.lengths[chosen], self.tokens[chosen])

    def choose(self, count: int, together: int = 1) -> np.ndarray:
        """Choose rows in random order, of all lengths as often as in all of them.

        Args:
            count: How many, at most.
            together: Rows that are taken together in the order of length, as a batch is of rows
                that someone has sorted.

        Returns:
            Their indices, shape (count or fewer,).
        """
        rising = np.argsort(self.lengths, kind="stable")
        packs = rising[: len(rising) // together * together].reshape(-1, together)
        taken = min(len(packs), max(1, count // together))
        chosen = packs[((np.arange(taken) + 0.5) * len(packs) / taken).astype(int)]
        return np.random.default_rng(SEED).permutation(chosen.ravel())


def make_lengths(kind: str, longest: int) -> LengthRule:
    """Return the rule of a kind of lengths; ``fixed`` ones are the longest."""
    return LengthRule(kind, longest if kind == "fixed" else 1, longest)


def draw_rows(shape: Shape, count: int, kind: str = "log-uniform") -> Rows:
    """Draw inputs as the teacher stage does, one length for each chunk of rows.

    A few chunks may happen to be long or short ones, so they are taken evenly from the lengths of
    many.
    """
    chunks = -(-count // CHUNK_ROWS)
    many = np.sort(make_lengths(kind, shape.longest).draw_lengths(SEED, 0, CHUNKS_DRAWN))
    few = many[((np.arange(chunks) + 0.5) * len(many) / chunks).astype(int)]
    lengths = np.random.default_rng(SEED).permutation(few).repeat(CHUNK_ROWS)[:count]
    seeds = mix_seeds(SEED, 0, count)
    return Rows(seeds, lengths, draw_uniform_ids(seeds, shape.longest, shape.vocabulary))


def make_model(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Make a Llama of random weights, the same ones every time, where it is to be used."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
        # So that an answer depends on every token of the input, and not alike for all inputs.
        initializer_range=shape.width**-0.5,
        bos_token_id=0,
        eos_token_id=1,
    )
    # Nothing of it is ever on the CPU where it is meant for a GPU.
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.requires_grad_(False).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of a few hundred tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([f"a {PROMPT_WORDS} Answer: {PROMPT_WORDS}"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")  # noqa: S106


def make_task(tokens: int, longest: int) -> Task:
    """Make a task whose prompt is this many tokens of :func:`make_tokenizer`'s, BOS included."""
    labels = (Label("bad", ("bad", "poor")), Label("good", ("good", "great")))
    words = islice(cycle(PROMPT_WORDS.split()), tokens - 1)
    return Task("benchmark", "".join(f" {word}" for word in words), "", labels, longest)
