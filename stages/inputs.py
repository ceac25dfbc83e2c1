"""The inputs of a cache's rows, drawn from seeds or cut from texts; and how to have them again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cache.directory import Cache
from cache.lengths import LengthRule
from cache.philox import mix_seeds
from cache.samplers import Sampler, VocabularySampler, build_sampler, quantise_distribution
from stages.errors import SettingError
from stages.task import Task
from stages.texts import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.reporting import Reporter
    from stages.settings import TeacherConfig
    from stages.teacher import Teacher

TABLE = "embedding.safetensors"
THRESHOLDS = "thresholds.npy"
TEXTS = "texts"
"""Name of the sampler of a cache whose inputs are texts."""

UNIGRAM_CONTEXTS, UNIGRAM_LENGTH = 256, 32
"""Random contexts that the model's next-token distribution is averaged over for ``unigram``."""


@dataclass(frozen=True)
class Inputs:
    """The rows' inputs: seeds and lengths of random ones, or the pieces of texts.

    Attributes:
        seeds: Row seeds, or line numbers of texts, shape (N,), uint64.
        lengths: Pieces of each row, shape (N,), int32.
        tokens: Pieces of texts padded with -1, shape (N, longest), int32; None for random inputs.
        identity: What goes into the fingerprint.
    """

    seeds: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray | None
    identity: Mapping[str, Any]

    def select(self, rows: slice | np.ndarray) -> Inputs:
        """Return the inputs of some of the rows."""
        tokens = None if self.tokens is None else self.tokens[rows]
        return Inputs(self.seeds[rows], self.lengths[rows], tokens, self.identity)


def prepare_inputs(
    config: TeacherConfig, task: Task, tokenizer: PreTrainedTokenizerBase, reporter: Reporter
) -> Inputs:
    """Draw seeds and lengths, or read texts.

    Raises:
        SettingError: The shortest input would be longer than the longest.
        TextDataError: The file of texts cannot be read.
    """
    if config.texts is not None:
        texts = encode_texts(
            config.texts, tokenizer, task.max_length, reporter, text_column=config.text_column
        )
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
    if config.min_length > task.max_length:
        raise SettingError(
            f"minimum length: got {config.min_length}, the task's longest input is "
            f"{task.max_length} pieces"
        )
    rule = LengthRule("log-uniform", config.min_length, task.max_length)
    chunks = -(-config.rows // config.chunk_rows)
    lengths = rule.draw_lengths(config.seed, 0, chunks).repeat(config.chunk_rows)[: config.rows]
    identity = {
        "name": config.sampler,
        "lengths": {"kind": rule.kind, "minimum": rule.minimum, "maximum": rule.maximum},
        "seed": config.seed,
    }
    if config.sampler == "unigram":
        identity["contexts"] = {"rows": UNIGRAM_CONTEXTS, "length": UNIGRAM_LENGTH}
    return Inputs(mix_seeds(config.seed, 0, config.rows), lengths.astype(np.int32), None, identity)


def make_attachments(
    inputs: Inputs, teacher: Teacher, tokenizer: PreTrainedTokenizerBase
) -> dict[str, bytes]:
    """Collect what a student needs of the language model, so that it needs nothing else of it."""
    from safetensors.torch import save

    files = {TABLE: save({"embedding": teacher.table.cpu().contiguous()})}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            if path.is_file():
                files[f"tokenizer-{path.name}"] = path.read_bytes()
    if inputs.identity["name"] == "unigram":
        # Contexts of uniformly drawn words, under seeds of their own.
        words = VocabularySampler(teacher.table)
        seeds = mix_seeds(inputs.identity["seed"], 2**40, UNIGRAM_CONTEXTS)
        ids = torch.from_numpy(words.draw_ids(seeds, UNIGRAM_LENGTH))
        thresholds = quantise_distribution(teacher.average_next_token(ids).numpy())
        files[THRESHOLDS] = thresholds.astype("<i8").tobytes()
    return files


def read_sampler(cache: Cache, table: torch.Tensor) -> Sampler | None:
    """Rebuild the sampler that a cache's inputs came from; None where they are texts."""
    name = cache.manifest.inputs["sampler"]["name"]
    if name == TEXTS:
        return None
    thresholds = None
    if THRESHOLDS in cache.manifest.attachments:
        thresholds = np.frombuffer(cache.read_attachment(THRESHOLDS), dtype="<i8")
    return build_sampler(name, table=table, thresholds=thresholds)


def read_table(cache: Cache) -> torch.Tensor:
    """Read the language model's embedding table, shape (V, d_T), from a cache."""
    from safetensors.torch import load

    table: torch.Tensor = load(cache.read_attachment(TABLE))["embedding"]
    return table
