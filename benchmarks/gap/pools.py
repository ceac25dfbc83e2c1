"""Inputs of every kind that the study tries, and the mini teacher's answers to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cache.draw import (
    LengthRule,
    build_sampler,
    draw_uniform_ids,
    mix_seeds,
    quantise_distribution,
    random_integers_numpy,
)
from stages.inputs import SamplingSettings
from stages.lm import load_language_model, resolve_model
from stages.loading import load_tokenizer
from stages.reporter import SilentReporter
from stages.tasks import Task, load_task
from stages.teacher import Callbacks, Teacher, average_next_token, draw_tokens, write_texts
from stages.texts import encode_texts, number_labels, read_texts

CHUNK = 64
OWN = "own"
"""Rule for lengths of inputs that end where they end."""
BATCH_POSITIONS = 4096
CANDIDATES = 128
"""Likeliest next tokens that `bigram` draws from."""

RUN_SEEDS = {"train": 0, "held-out": 1_000_003}
"""Seeds of the rows that students learn from, and of those that they are measured on."""


@dataclass(frozen=True)
class Pool:
    """Rows of one kind with the teacher's answers.

    Attributes:
        ids: Token ids padded with -1, shape (N, T); None where the inputs are no tokens.
        seeds: Row seeds, shape (N,).
        lengths: Tokens of each row, shape (N,).
        logits: The teacher's class logits, shape (N, K), float32.
        gold: Right columns of real texts, shape (N,); -1 elsewhere.
        seconds: To make the inputs and to answer them.
    """

    ids: np.ndarray | None
    seeds: np.ndarray
    lengths: np.ndarray
    logits: np.ndarray
    gold: np.ndarray
    seconds: np.ndarray

    def save(self, path: Path) -> None:
        """Write the pool to an .npz file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in vars(self).items() if value is not None}
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **kept)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Pool:
        """Read a pool."""
        with np.load(path) as found:
            return Pool(**{"ids": None} | {name: found[name] for name in found.files})


class Source:
    """The mini teacher on one task, and everything it can make inputs from."""

    def __init__(self, task: str) -> None:
        folder = resolve_model("mini")
        self.task: Task = load_task(task)
        self.tokenizer = load_tokenizer(folder)
        model = load_language_model(folder, "cpu", "float32")
        self.teacher = Teacher(model, self.tokenizer, self.task)
        # Made in inference mode, which training would stumble over.
        self.table = self.teacher.table.clone()
        self.callbacks = Callbacks(lambda rows: None, print)

    def answer(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the class logits of rows of token ids, shape (N, K)."""
        return self.teacher.answer_rows(
            lengths,
            lambda rows, length: self.teacher.look_up(ids[rows, :length]),
            BATCH_POSITIONS,
            self.callbacks,
        )

    def draw_lengths(self, rule: str, rows: int, seed: int) -> np.ndarray:
        """Return the lengths of rows by log-uniform, uniform, a number or own, each for a chunk."""
        longest, chunks = self.task.max_length, -(-rows // CHUNK)
        if rule in ("uniform", "log-uniform"):
            lengths = LengthRule(rule, 1, longest).draw_lengths(seed, 0, chunks)
        else:
            lengths = np.full(chunks, longest if rule == OWN else min(int(rule), longest))
        return lengths.repeat(CHUNK)[:rows]

    def draw_ids(self, kind: str, seeds: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Draw token ids of one kind, shape (N, longest), padded with -1."""
        longest = self.task.max_length
        own = {
            "self": SamplingSettings(),
            "self-labelled": SamplingSettings(labelled=True),
            "self-0.7": SamplingSettings(temperature=0.7),
            "self-1.3": SamplingSettings(temperature=1.3),
        }
        if kind in own:
            return write_texts(self.teacher, seeds, own[kind], longest, self.callbacks)
        if kind == "singles":  # every entry of the vocabulary, the lengths and seeds left out
            ids = np.full((len(self.table), longest), -1, dtype=np.int32)
            ids[:, 0] = np.arange(len(self.table))
            return ids
        if kind == "bigram":
            ids = self._draw_bigrams(seeds, longest)
        elif kind == "unigram":
            sampler = build_sampler("unigram", table=self.table, thresholds=self._thresholds)
            ids = sampler.draw_ids(seeds, longest)
        else:
            ids = draw_uniform_ids(seeds, longest, len(self.table))
        if kind.startswith("rounds"):  # rounds-3, rounds-3-unigram, ...
            rounds, *start = kind.split("-")[1:]
            if start:
                ids = self.draw_ids(start[0], seeds, np.full(len(seeds), longest))
            ids[np.arange(longest) >= lengths[:, None]] = -1
            for number in range(int(rounds)):
                ids = self._resample(ids, seeds, lengths, number)
        ids = ids.astype(np.int32)
        ids[np.arange(longest) >= lengths[:, None]] = -1
        return ids

    @cached_property
    def _thresholds(self) -> np.ndarray:
        seeds = mix_seeds(0, 2**40, 256)
        contexts = draw_uniform_ids(seeds, 32, len(self.table))
        average = average_next_token(self.teacher, torch.from_numpy(contexts))
        return quantise_distribution(average.numpy())

    @torch.inference_mode()
    def _predict(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of each position's token given those before it, (B, T, V)."""
        prefix = self.teacher.look_up(np.array([self.teacher.prefix_ids]))
        rows = torch.cat([prefix.expand(len(ids), -1, -1), self.table[ids]], dim=1)
        output = self.teacher.model(inputs_embeds=rows, use_cache=False)
        return output.logits[:, prefix.shape[1] - 1 :].float()

    @torch.inference_mode()
    def _resample(
        self, ids: np.ndarray, seeds: np.ndarray, lengths: np.ndarray, number: int
    ) -> np.ndarray:
        """Replace half of the positions by what the model expects there."""
        words = random_integers_numpy(seeds, 2 * ids.shape[1], stream=100 + number)
        choose, draws = words[:, : ids.shape[1]], words[:, ids.shape[1] :] * 2.0**-32
        found = ids.copy()
        ends = [1, *self.teacher.suffix_ids[:1]]
        with self.teacher.suspend():
            for length in np.unique(lengths):
                alike = np.flatnonzero(lengths == length)
                size = max(1, 4096 // int(length))
                for begin in range(0, len(alike), size):
                    part = alike[begin : begin + size]
                    logits = self._predict(torch.from_numpy(ids[part, :length]).long())[:, :-1]
                    logits[:, :, ends] = -torch.inf
                    uniform = torch.from_numpy(draws[part, :length].reshape(-1))
                    drawn = draw_tokens(logits.flatten(0, 1), uniform, 1.0)
                    new = drawn.view(len(part), -1).numpy()
                    half = choose[part, :length] < 2**31
                    found[part, :length] = np.where(half, new, ids[part, :length])
        return found

    def _draw_bigrams(self, seeds: np.ndarray, longest: int) -> np.ndarray:
        """Draw each token by the model's answer to the prompt and the token before it alone."""
        likely, sums = [], []
        with self.teacher.suspend(), torch.inference_mode():
            for part in torch.arange(len(self.table)).split(256):
                logits = self._predict(part[:, None])
                if not likely:
                    first = logits[:1, 0].clone()
                    first[:, [1, *self.teacher.suffix_ids[:1]]] = -torch.inf
                rows = logits[:, 1]
                rows[:, [1, *self.teacher.suffix_ids[:1]]] = -torch.inf
                best = rows.softmax(dim=1).topk(CANDIDATES, dim=1)
                likely.append(best.indices)
                sums.append(best.values.cumsum(dim=1) / best.values.sum(dim=1, keepdim=True))
            start = first.expand(len(seeds), -1)
        likely_ids, cumulated = torch.cat(likely).numpy(), torch.cat(sums).numpy()
        uniform = random_integers_numpy(seeds, longest) * 2.0**-32
        ids = np.empty((len(seeds), longest), dtype=np.int64)
        ids[:, 0] = draw_tokens(start, torch.from_numpy(uniform[:, 0]), 1.0).numpy()
        for position in range(1, longest):
            before = ids[:, position - 1]
            above = cumulated[before] > uniform[:, position, None]
            ids[:, position] = likely_ids[before, above.argmax(axis=1)]
        return ids


def make_pool(
    open_source: Callable[[str], Source],
    folder: Path,
    task: str,
    kind: str,
    *,
    rows: int,
    lengths: str = "log-uniform",
    part: str = "train",
    data: Path | None = None,
) -> Pool:
    """Make a pool, or read it where it is there; `real` takes the texts of a file of ``data``."""
    path = folder / "pools" / f"{task}-{kind}-{lengths}-{rows}-{part}.npz"
    if path.is_file():
        return Pool.load(path)
    source = open_source(task)
    began = time.monotonic()
    rows = len(source.table) if kind == "singles" else rows
    seeds = mix_seeds(RUN_SEEDS[part], 0, rows)
    gold = np.full(rows, -1)
    if kind in ("gaussian", "uniform"):
        sizes = source.draw_lengths(lengths, rows, RUN_SEEDS[part])
        embed = embedder(kind, source.table)
        made = time.monotonic()
        logits = source.teacher.answer_rows(
            sizes,
            lambda chosen, length: embed(seeds[chosen], length),
            BATCH_POSITIONS,
            source.callbacks,
        )
        ids = None
    else:
        if kind == "real":
            if data is None:
                raise SystemExit("real texts need --data DIR")
            name = "train" if part == "train" else "test"
            ids, gold = read_real(source, data / task / f"{name}.jsonl.gz", rows)
            seeds = np.arange(len(ids), dtype=np.uint64)
        else:
            ids = source.draw_ids(kind, seeds, source.draw_lengths(lengths, rows, RUN_SEEDS[part]))
        sizes = (ids >= 0).sum(axis=1)
        order = np.argsort(sizes, kind="stable") if kind == "real" or "self" in kind else None
        if order is not None:
            ids, seeds, sizes, gold = ids[order], seeds[order], sizes[order], gold[order]
        made = time.monotonic()
        logits = source.answer(ids, sizes)
    seconds = np.array([made - began, time.monotonic() - made])
    pool = Pool(ids, seeds, sizes, logits, gold, seconds)
    pool.save(path)
    print(f"{path.name}: {seconds[0]:.0f} s to make, {seconds[1]:.0f} s to answer", flush=True)
    return pool


def embedder(kind: str, table: torch.Tensor) -> Callable[[np.ndarray, int], torch.Tensor]:
    """Return what draws the inputs of a kind that has no token ids."""
    if kind == "uniform":
        return build_sampler("uniform", table=table).draw_embeddings
    values = table.double()
    mean = values.mean(dim=0)
    levels, axes = torch.linalg.eigh(torch.cov(values.T))
    root = (axes * levels.clamp(min=0).sqrt()) @ axes.T

    def draw(seeds: np.ndarray, length: int) -> torch.Tensor:
        words = random_integers_numpy(seeds, length * table.shape[1])
        normal = torch.special.ndtri(torch.from_numpy((words + 0.5) * 2.0**-32))
        return (normal.view(len(seeds), length, -1) @ root + mean).to(table)

    return draw


def read_real(source: Source, path: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Read at most this many texts of a file, evenly spaced; ids and right columns."""
    found = read_texts(path)
    if rows < len(found):
        found = [found[index] for index in np.linspace(0, len(found) - 1, rows).astype(int)]
    encoded = encode_texts(found, source.tokenizer, source.task.max_length, SilentReporter())
    return encoded.tokens, number_labels(found, source.task.label_names, path)
