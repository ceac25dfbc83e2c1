"""Which inputs a cache's rows have, drawn from seeds or read from texts; what draws them again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cache.draw import (
    SAMPLERS,
    Mixture,
    Sampler,
    build_sampler,
    draw_lengths,
    mix_samplers,
    mix_seeds,
    parse_mixture,
)
from cache.errors import SamplerError
from stages.errors import SettingError
from stages.reporter import Reporter
from stages.tasks import Task
from stages.texts import encode_texts, read_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = "texts"  # name of the sampler of a cache whose inputs are texts
NOISY = "self-noisy"
LABELLED_SAMPLERS = ("self-labelled", NOISY)  # each of whose texts is written for a label
MODEL_SAMPLERS = ("self", *LABELLED_SAMPLERS)  # the language model writes their inputs
NOISE = 0.1  # share of the tokens of NOISY that are drawn as ``unigram`` draws them
WRITING = ("temperature", "top_p")  # settings that they are written by
# Random contexts that the model's next-token distribution is averaged over for ``unigram``.
UNIGRAM_CONTEXTS = {"rows": 256, "length": 32}


@dataclass(frozen=True)
class SamplingSettings:
    """How the language model draws the tokens that it writes.

    Raises:
        SettingError: A number is out of its range.
    """

    temperature: float = 1.0  # what its logits are divided by; above 0
    # Tokens are drawn from the fewest that have this share of the probability together, in (0, 1].
    top_p: float = 1.0
    labelled: bool = False  # the prompt names a label, another one from row to row

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise SettingError(f"temperature: got {self.temperature:g}, must be above 0")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top-p: got {self.top_p:g}, must be in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """Which inputs the teacher answers."""

    sampler: str = "auto"  # or one, or a mixture, such as ``vocabulary=0.5,self=0.5``
    rows: int = 32768
    texts: Path | None = None  # a file to answer instead
    text_column: str = "text"  # its column or key
    temperature: float = 1.0  # as in SamplingSettings, where the model writes inputs itself
    top_p: float = 1.0
    seed: int = 0
    chunk_rows: int = 64  # rows of a chunk; those drawn share a length
    shard_rows: int = 4096  # rows that are written at once

    def __post_init__(self) -> None:
        for name in ("rows", "chunk_rows", "shard_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}: got {getattr(self, name)}, must be at least 1")
        if self.shard_rows % self.chunk_rows:
            raise SettingError(
                f"shard rows: got {self.shard_rows}, must be a multiple of the chunk rows, "
                f"{self.chunk_rows}"
            )


@dataclass(frozen=True)
class WrittenInputs:
    """How inputs come about of which the language model writes some or all."""

    mixture: Mixture  # which sampler draws or writes a row
    sampling: SamplingSettings
    longest: int


@dataclass(frozen=True)
class Inputs:
    """The rows' inputs: seeds and lengths of random ones, or the tokens of texts."""

    seeds: np.ndarray  # of rows, or line numbers of texts, shape (N,), uint64
    lengths: np.ndarray  # tokens of each row, or at most so many if yet to be written, (N,), int32
    tokens: np.ndarray | None  # of texts, padded with -1, shape (N, longest), int32
    identity: Mapping[str, Any]  # what goes into the fingerprint
    written: WrittenInputs | None = None  # None where tokens are known or drawn

    @property
    def token_width(self) -> int | None:
        """Columns of the tokens that are kept in the cache; None where none are."""
        if self.written is not None:
            return self.written.longest
        return None if self.tokens is None else self.tokens.shape[1]

    def select(self, rows: slice | np.ndarray) -> Inputs:
        """Return the inputs of some of the rows."""
        tokens = None if self.tokens is None else self.tokens[rows]
        return Inputs(self.seeds[rows], self.lengths[rows], tokens, self.identity, self.written)

    def describe(self) -> str:
        """Return how many inputs there are, of what kind and length."""
        name, lengths = self.identity["name"], self.lengths
        kind = "texts" if name == TEXTS else f"inputs ({name})"
        span = "up to " if self.written is not None else f"{lengths.min()}-"
        return f"{len(lengths):,} {kind} of {span}{lengths.max()} tokens"


def prepare_inputs(
    config: InputsConfig, task: Task, tokenizer: PreTrainedTokenizerBase, reporter: Reporter
) -> Inputs:
    """Draw seeds and lengths, or read texts.

    SettingError: a setting is for other samplers; TextDataError: the file cannot be read.
    """
    if config.texts is not None:
        _check_written(config, False)
        rows = read_texts(config.texts, config.text_column, None, reporter)
        texts = encode_texts(rows, tokenizer, task.max_length, reporter)
        # Rows of like length side by side, so that a chunk hardly mixes lengths.
        order = np.argsort(texts.lengths, kind="stable")
        tokens, lines = texts.tokens[order], texts.lines[order].astype(np.uint64)
        identity: dict[str, Any] = {
            "name": TEXTS,
            "tokens_sha256": hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest(),
            # The same texts in another file may stand at other lines, which rows are known by.
            "lines_sha256": hashlib.sha256(lines.astype("<u8").tobytes()).hexdigest(),
        }
        return Inputs(lines, texts.lengths[order], tokens, identity)
    chunks = -(-config.rows // config.chunk_rows)
    try:
        lengths = draw_lengths(task.max_length, config.seed, 0, chunks)
        mixture = _parse(_choose_sampler(config.sampler, task, reporter))
    except SamplerError as error:
        raise SettingError(str(error)) from error
    lengths = lengths.repeat(config.chunk_rows)[: config.rows]
    seeds = mix_seeds(config.seed, 0, config.rows)
    parts = [number for number, name in enumerate(mixture.names) if name in MODEL_SAMPLERS]
    _check_written(config, bool(parts))
    identity = {
        "name": mixture.text,
        "lengths": {"kind": "uniform", "minimum": 1, "maximum": task.max_length},
        "seed": config.seed,
    }
    if not {"unigram", NOISY}.isdisjoint(mixture.names):
        behind = {} if task.drawn_behind is None else {"prompt": task.drawn_behind}
        identity["contexts"] = UNIGRAM_CONTEXTS | behind
    written = None
    if parts:
        if "uniform" in mixture.names:
            raise SettingError(
                f"sampler: got {config.sampler!r}; the inputs of uniform have no token ids, which "
                "a cache of texts that the model writes keeps for every row; leave it out"
            )
        # As text: equal floats can be written in several ways, and a fingerprint knows but one.
        sampling = SamplingSettings(config.temperature, config.top_p)
        identity["writing"] = {name: f"{getattr(sampling, name):.15g}" for name in WRITING}
        if NOISY in mixture.names:
            identity["writing"]["noise"] = f"{NOISE:.15g}"
        for name in (mixture.names[part] for part in parts):  # behind what, if not the own prompt
            if prompt := task.choose_write(name in LABELLED_SAMPLERS):
                identity["writing"][name] = prompt
        written = WrittenInputs(mixture, sampling, task.max_length)
        lengths[np.isin(mixture.choose_parts(seeds), parts)] = task.max_length
    return Inputs(seeds, lengths.astype(np.int32), None, identity, written)


def build_samplers(
    name: str, table: torch.Tensor, thresholds: np.ndarray | None
) -> dict[str, Sampler]:
    """Build those samplers of a mixture that draw rows, or tokens, from seeds, by name."""
    if name == TEXTS:
        return {}
    parts = {*_parse(name).names}
    drawn = (parts - {*MODEL_SAMPLERS}) | ({"unigram"} if NOISY in parts else set())
    return {part: build_sampler(part, table=table, thresholds=thresholds) for part in drawn}


def is_written(name: str, samplers: Collection[str] = MODEL_SAMPLERS) -> bool:
    """Say whether the model writes all rows of a sampler, in one of these ways."""
    return name != TEXTS and {*_parse(name).names} <= {*samplers}


def find_drawn(name: str, seeds: np.ndarray) -> np.ndarray:
    """Return which rows of these seeds a sampler draws, the model writing the others, shape (N,).

    Where all of its rows are of one kind, as those of texts are, they all count.
    """
    mixture = _parse(name if name != TEXTS else "unigram")
    drawn = np.array([part not in MODEL_SAMPLERS for part in mixture.names])
    chosen: np.ndarray = drawn[mixture.choose_parts(seeds)]
    return chosen if chosen.any() else ~chosen


def mix_parts(name: str, parts: Mapping[str, Sampler]) -> Sampler:
    """Return the sampler of a mixture of such samplers."""
    mixture = parse_mixture(name, SAMPLERS)
    return mix_samplers(mixture, [parts[part] for part in mixture.names])


def _parse(name: str) -> Mixture:
    return parse_mixture(name, (*SAMPLERS, *MODEL_SAMPLERS))


def _choose_sampler(asked: str, task: Task, reporter: Reporter) -> str:
    if asked != "auto":
        return asked
    chosen = "unigram" if task.write_labelled is None else NOISY  # see benchmarks/real.md
    reporter.say(f"sampler: {chosen} (auto: by whether the model is asked for texts of a label)")
    return chosen


def _check_written(config: InputsConfig, written: bool) -> None:
    for name in WRITING:
        if not written and getattr(config, name) != 1:
            raise SettingError(
                f"{name.replace('_', '-')}: got {getattr(config, name):g}, but nothing is written "
                f"by the model; it is for the samplers {', '.join(MODEL_SAMPLERS)}"
            )
