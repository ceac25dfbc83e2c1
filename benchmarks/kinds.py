"""Inputs of many kinds for the students of a real model, none but `real` from a text.

A row is drawn or written once and kept, so that a run goes on where it stopped.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.changes import INTERRUPTED, change_texts, find_ends, interrupt, pair_labels
from benchmarks.questions import DATA, read_test
from cache.draw import (
    TokenSampler,
    VocabularySampler,
    build_sampler,
    draw_lengths,
    mix_seeds,
    quantise_distribution,
)
from stages.classify import load_classifier
from stages.inputs import SamplingSettings
from stages.reporter import SilentReporter
from stages.tasks import fit_tokenizer
from stages.teacher import (
    Teacher,
    average_next_token,
    choose_labels,
    find_prompts,
    write_texts,
)
from stages.texts import encode_texts

KINDS = (
    *("unigram", "labelled", "real", "topical", "topical-chain", "chain", "written"),
    *("labelled+topical", "unigram-own", "vocabulary", "shuffled", "labelled+chain"),
    *("labelled+unigram", "labelled+written", "written+unigram"),
    *("likely", "likely+unigram", "spliced", "labelled+spliced", "begun", "labelled+begun"),
    *("plain", "plain+unigram", "paired", "paired+unigram", "scattered", "scattered+unigram"),
    *("begun+unigram", "spliced+unigram", "labelled+unsure", "uniform"),
    *("interrupted", "interrupted+unigram", "interrupted-less", "interrupted-more", "warm"),
    *("interrupted-own", "interrupted-on"),
)
"""``likely`` are labelled texts of likelier words, ``spliced`` pieces of two labelled texts a row,
``begun`` labelled texts up to anywhere, ``plain`` ones that are not asked for through the chat
template, ``paired`` ones of two labels, in ``scattered`` ones some tokens are random, and so in
``interrupted`` ones, where the model goes on behind them (``own``: tokens of its own average behind
labelled texts, not behind random tokens; ``on``: none at which a text could end), ``warm`` ones are
written at a higher temperature; ``unsure`` are the ``unigram`` rows of a larger draw on which two
students of different seeds differ most; ``a+b`` is half of each."""
DRAWN = 4
"""Rows of that draw for each that is chosen."""
LONGEST, FOLLOWING, TOP_P, WARM = 96, 32, 0.95, 1.3
CONTEXTS, CONTEXT_LENGTH = 64, 24
RESTART = 0.15
"""How often a token of a chain does not follow from the one before it."""


class Kinds:
    """The inputs of one model and task, below a directory."""

    def __init__(
        self,
        teacher: Teacher,
        task: str,
        data: Path,
        work: Path,
        rows: int,
        wide: int,
        students: Sequence[Path],
    ) -> None:
        self.teacher, self.task, self.rows, self.wide = teacher, task, rows, wide
        self.data, self.work, self.students = data, work, students
        self.table, self.longest = teacher.table, teacher.task.max_length
        tokenizer, size = teacher.tokenizer, len(teacher.table)
        self._special = np.zeros(size, dtype=bool)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        self._special[[k for k in special if k < size]] = True

    def keep(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return what is kept under a name, made and kept where it is not."""
        path = self.work / f"{name}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            began, arrays = time.monotonic(), make()
            seconds = np.array(time.monotonic() - began)
            np.savez_compressed(path.with_suffix(".part.npz"), seconds=seconds, **arrays)
            path.with_suffix(".part.npz").replace(path)
            print(f"{path}: {seconds:.1f} s", flush=True)
        with np.load(path) as found:
            return dict(found)

    def get(self, kind: str) -> np.ndarray:
        """Return the tokens of a kind, padded with -1, shape (N, longest)."""
        return self.keep(kind, lambda: self._make(kind))["tokens"]

    def _make(self, kind: str) -> dict[str, np.ndarray]:
        if kind in ("labelled", "likely", "written"):
            sampling = SamplingSettings(
                top_p=TOP_P if kind == "likely" else 1.0, labelled=kind != "written"
            )
            return self.write(self.rows, 100, sampling)
        if kind == "plain":
            other = copy.copy(self.teacher)
            other.chat = False
            return self.write(self.rows, 500, SamplingSettings(labelled=True), other)
        if kind in INTERRUPTED:
            own = kind == "interrupted-own"
            average = self._find_labelled_average() if own else self._find_average(own=False)
            if kind == "interrupted-on":
                average[find_ends(self.teacher)[: len(average)]] = 0
            with interrupt(kind, average):
                return self.write(self.rows, 600, SamplingSettings(labelled=True))
        if kind == "warm":
            return self.write(self.rows, 700, SamplingSettings(labelled=True, temperature=WARM))
        if kind == "paired":
            return self.write(
                self.rows, 400, SamplingSettings(labelled=True), pair_labels(self.teacher)
            )
        if kind == "real":
            return self.read("train", self.rows)
        if "+" in kind:
            halves = [self.get(name) for name in kind.split("+")]
            wide = [
                np.pad(x, [(0, 0), (0, self.longest - x.shape[1])], constant_values=-1)
                for x in halves
            ]
            return {"tokens": self.join(*wide)}
        if kind in ("shuffled", "begun", "spliced", "scattered"):
            others = self._draw(self._find_average(own=False), 7) if kind == "scattered" else None
            return {"tokens": change_texts(kind, self.get("labelled"), others)}
        if kind == "unsure":
            return {"tokens": self._choose_unsure()}
        if kind.startswith("unigram"):
            drawn = self._draw(self._find_average(kind == "unigram-own"), 0)
        elif kind == "vocabulary":
            drawn = VocabularySampler(self.table).draw_ids(mix_seeds(0, 0, self.rows), self.longest)
        else:
            drawn = self._topical(11) if kind == "topical" else self._chain("topical" in kind, 21)
        return {"tokens": self._cut(drawn)}

    def _cut(self, drawn: np.ndarray) -> np.ndarray:
        """Cut drawn rows (N, longest) to lengths as a cache has them, and pad them with -1."""
        lengths = draw_lengths(self.longest, 0, 0, -(-len(drawn) // 64)).repeat(64)[: len(drawn)]
        tokens = drawn.astype(np.int32)
        tokens[np.arange(self.longest) >= lengths[:, None]] = -1
        return tokens

    def _choose_unsure(self) -> np.ndarray:
        average = self._find_average(own=False)
        drawn = np.concatenate([self._cut(self._draw(average, 31 + k)) for k in range(DRAWN)])
        texts = self.teacher.tokenizer.batch_decode([row[row >= 0].tolist() for row in drawn])
        first, second = (load_classifier(path, "auto").classify(texts) for path in self.students)
        apart = np.abs(first.probabilities - second.probabilities).sum(axis=1)
        return drawn[np.argsort(-apart, kind="stable")[: self.rows]]

    def join(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return half of the rows from the first's begin and half from the second's end, (N, …)."""
        middle = self.rows // 2
        return np.concatenate([first[:middle], second[middle - self.rows :]])

    def read(self, part: str, count: int) -> dict[str, np.ndarray]:
        """Return texts of a data set's file and their labels, (N,)."""
        path = self.data / f"{DATA[self.task].replace('test', part)}.jsonl.gz"
        found = list(read_test(path, self.teacher.task))
        order = np.random.default_rng(0).permutation(len(found))[:count]
        cut = fit_tokenizer(self.teacher.task, self.teacher.tokenizer, self.teacher.chat)
        texts = encode_texts([found[k][0] for k in order], cut, self.longest, SilentReporter())
        return {"tokens": texts.tokens, "gold": np.array([found[k][1] for k in order])}

    def write(
        self, count: int, seed: int, sampling: SamplingSettings, teacher: Teacher | None = None
    ) -> dict[str, np.ndarray]:
        """Have the model write texts as it does for a cache; returns tokens and labels, (N,)."""
        teacher = teacher or self.teacher
        seeds, longest = mix_seeds(seed, 0, count), min(LONGEST, self.longest)
        tokens = write_texts(teacher, seeds, sampling, longest, lambda _: None)
        return {"tokens": tokens, "gold": choose_labels(seeds, len(teacher.task.labels))}

    @property
    def _prompt(self) -> list[int]:
        """What stands in front of a text of no label."""
        (prompt,) = find_prompts(self.teacher, labelled=False)
        return prompt

    def _find_average(self, own: bool) -> np.ndarray:
        """Average the model's next-token distribution over its own texts or random tokens, (V,)."""
        if own:
            return self.keep("tables", self._make_tables)["average"]
        sampler = VocabularySampler(self.table)
        ids = sampler.draw_ids(mix_seeds(0, 2**40, CONTEXTS), 32)
        return average_next_token(self.teacher, torch.from_numpy(ids)).numpy()

    def _make_tables(self) -> dict[str, np.ndarray]:
        """Return the labels' distributions (K, V), and the model's own (V,)."""
        kept = self.keep("labelled", lambda: self._make("labelled"))
        topics = []
        for column, prompt in enumerate(find_prompts(self.teacher, labelled=True)):
            own = kept["tokens"][kept["gold"] == column]
            words = own[:CONTEXTS]
            counts = np.bincount(words[words >= 0], minlength=len(self.table)).astype(float)
            counts[self._special] = 0
            average = self._average_behind(own, prompt)
            topics.append(0.6 * average + 0.4 * counts / counts.sum())
        average = self._average_behind(self.get("written"), self._prompt)
        return {"topics": np.array(topics), "average": average}

    def _find_labelled_average(self) -> np.ndarray:
        """Average the model's next-token distribution over its texts of every label, (V,)."""
        kept = self.keep("labelled", lambda: self._make("labelled"))
        prompts = find_prompts(self.teacher, labelled=True)
        columns = (kept["tokens"][kept["gold"] == k] for k in range(len(prompts)))
        averages = map(self._average_behind, columns, prompts)
        return np.asarray(np.mean([*averages], axis=0))

    def _average_behind(self, texts: np.ndarray, prompt: list[int]) -> np.ndarray:
        long = texts[(texts >= 0).sum(axis=1) >= CONTEXT_LENGTH][:CONTEXTS, :CONTEXT_LENGTH]
        ids = torch.from_numpy(long.astype(np.int64))
        found = average_next_token(self.teacher, ids, prefix_ids=prompt).numpy()
        found[self._special] = 0
        return np.asarray(found / found.sum())

    @torch.inference_mode()
    def _find_followers(self) -> dict[str, np.ndarray]:
        """Return the likeliest next tokens of every token and their chances, (V, FOLLOWING)."""
        ids, chances = [], []
        prompt = self.teacher.look_up(np.array([self._prompt]))
        special = torch.from_numpy(self._special).to(self.table.device)
        with self.teacher.suspend():
            for part in self.table.split(self.wide):
                inputs = torch.cat([prompt.expand(len(part), -1, -1), part[:, None]], dim=1)
                output = self.teacher.model(inputs_embeds=inputs, logits_to_keep=1, use_cache=False)
                logits = output.logits[:, -1, : len(self.table)].float()
                top, found = logits.masked_fill(special, -torch.inf).softmax(1).topk(FOLLOWING, 1)
                ids.append(found.int().cpu())
                chances.append(top.half().cpu())
        return {"next": torch.cat(ids).numpy(), "chances": torch.cat(chances).numpy()}

    def _draw(self, distribution: np.ndarray, seed: int) -> np.ndarray:
        thresholds = quantise_distribution(distribution)
        sampler = build_sampler("unigram", table=self.table, thresholds=thresholds)
        assert isinstance(sampler, TokenSampler)
        return sampler.draw_ids(mix_seeds(seed, 0, self.rows), self.longest)

    def _topical(self, seed: int) -> np.ndarray:
        """Draw independent tokens of a mixture of the labels' distributions a row."""
        sums = self.keep("tables", self._make_tables)["topics"].cumsum(axis=1)
        rng = np.random.default_rng(seed)
        theta = rng.dirichlet(np.full(len(sums), 0.25), self.rows).cumsum(axis=1)
        draws = rng.random((self.rows, self.longest, 1))
        topics = np.minimum((draws > theta[:, None]).sum(axis=2), len(sums) - 1)
        words = np.empty(topics.shape, dtype=np.int64)
        for topic, row in enumerate(sums):
            chosen = topics == topic
            words[chosen] = np.searchsorted(row / row[-1], rng.random(chosen.sum()))
        return words

    def _chain(self, topical: bool, seed: int) -> np.ndarray:
        """Draw rows in which a token follows the one before it, and the row's topics if asked."""
        found, rng = self.keep("tables", self._make_tables), np.random.default_rng(seed)
        found |= self.keep("followers", self._find_followers)
        theta = rng.dirichlet(np.full(len(found["topics"]), 0.25), self.rows)
        ratio = found["topics"] / (found["topics"].mean(axis=0) + 1e-9)
        words = self._topical(seed + 1) if topical else self._draw(found["average"], seed + 1)
        for t in range(1, self.longest):
            ids = found["next"][words[:, t - 1]]
            weights = found["chances"][words[:, t - 1]].astype(np.float64) + 1e-9
            if topical:
                weights *= np.einsum("nk,knt->nt", theta, ratio[:, ids])
            sums = weights.cumsum(axis=1)
            picks = (rng.random((self.rows, 1)) * sums[:, -1:] > sums).sum(axis=1)
            following = ids[np.arange(self.rows), np.minimum(picks, FOLLOWING - 1)]
            words[:, t] = np.where(rng.random(self.rows) < RESTART, words[:, t], following)
        return words
