"""The models, prompts and rows that the teacher is measured with, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cache import draw
from cache.draw import VocabularySampler, mix_seeds
from stages.checkpoints import load_tokenizer
from stages.lm import resolve_model
from stages.tasks import Label, Task

SEED = 0
CHUNK_ROWS = 64
"""Rows that share one length, as in the teacher stage by default."""
CHUNKS_DRAWN = 4096
PROMPT_WORDS = "is it very good or bad or great or poor"
"""What prompts are made of; each word is one token of the mini teacher's."""


@dataclass(frozen=True)
class Shape:
    """A Llama, and the inputs it is asked about."""

    layers: int = 8
    width: int = 512
    inner: int = 1376  # width within the MLP
    heads: int = 8
    vocabulary: int = 32000
    longest: int = 256  # tokens of the longest input
    prompts: tuple[int, ...] = (11, 400)  # tokens of the prompts, BOS included

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
TINY = Shape(2, 64, 96, 4, 8192, 24, (11, 40))
LLAMA_7B = Shape(32, 4096, 11008, 32, 32000, 512, (11,))


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs that all ways of answering share; a row's input is the first of its tokens."""

    seeds: np.ndarray  # (N,), uint64: what the teacher stage draws them from
    lengths: np.ndarray  # (N,)
    tokens: np.ndarray  # (N, longest)

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


def draw_lengths(kind: str, longest: int, count: int) -> np.ndarray:
    """Return lengths of a kind; ``constant`` ones are the longest, ``log-uniform`` mostly short."""
    if kind == "log-uniform":
        rng = np.random.default_rng(SEED)
        return np.exp(rng.uniform(0, np.log(longest + 1), count)).astype(np.int64)
    if kind == "constant":
        return np.full(count, longest)
    return draw.draw_lengths(longest, SEED, 0, count)


def draw_rows(shape: Shape, count: int, kind: str = "log-uniform") -> Rows:
    """Draw inputs as the teacher stage does, one length for each chunk of rows.

    A few chunks may happen to be long or short ones, so they are taken evenly from the lengths of
    many.
    """
    chunks = -(-count // CHUNK_ROWS)
    many = np.sort(draw_lengths(kind, shape.longest, CHUNKS_DRAWN))
    few = many[((np.arange(chunks) + 0.5) * len(many) / chunks).astype(int)]
    lengths = np.random.default_rng(SEED).permutation(few).repeat(CHUNK_ROWS)[:count]
    seeds = mix_seeds(SEED, 0, count)
    sampler = VocabularySampler(torch.empty(1).expand(shape.vocabulary, 1))
    return Rows(seeds, lengths, sampler.draw_ids(seeds, shape.longest))


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


def make_tokenizer() -> Any:
    """Load the mini teacher's tokenizer."""
    return load_tokenizer(resolve_model("mini"))


def make_task(tokens: int, longest: int, bad: str = "bad poor", score: str = "first-token") -> Task:
    """Make a task whose prompt is this many tokens of :func:`make_tokenizer`, BOS included."""
    labels = (Label("bad", (*bad.split(),)), Label("good", ("good", "great")))
    words = islice(cycle(PROMPT_WORDS.split()), tokens - 1)
    return Task("benchmark", "".join(f" {word}" for word in words), "", labels, longest, score)
