"""Inputs of many kinds for the students of a real model, none but `real` from a text.

A row is drawn or written once and kept, so that a run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.questions import DATA, read_test
from cache.draw import (
    TokenSampler,
    VocabularySampler,
    build_sampler,
    draw_lengths,
    mix_seeds,
    quantise_distribution,
)
from stages.reporter import SilentReporter
from stages.tasks import fit_tokenizer
from stages.teacher import Teacher, average_next_token
from stages.texts import encode_texts

# What a model is asked to write: labelled, any; the same of chat models.
ASKED = {
    "ag_news": (
        "A short news story from the {label} section of a newspaper:\n",
        "A short news story from a newspaper:\n",
        "Write a short news report about {label}. Write only the report, without a title.",
        "Write a short news report. Write only the report, without a title.",
    ),
    "reddit": (
        "A {label} comment on Reddit:\n",
        "A comment on Reddit:\n",
        "Write a short Reddit comment with a {label} emotion. Write only the comment.",
        "Write a short Reddit comment. Write only the comment.",
    ),
    "emotions": (
        "A comment on Reddit that expresses {label}:\n",
        "A comment on Reddit:\n",
        "Write a short Reddit comment that expresses {label}. Write only the comment.",
        "Write a short Reddit comment. Write only the comment.",
    ),
}
SPOKEN = {"World": "world politics", "Sci/Tech": "science and technology"}
LONGEST = {"ag_news": 96, "reddit": 40, "emotions": 40}
KINDS = (
    *("unigram", "labelled", "real", "topical", "topical-chain", "chain", "written"),
    *("labelled+topical", "unigram-own", "vocabulary", "shuffled", "labelled+chain"),
    *("labelled+unigram", "labelled+written", "written+unigram"),
)
FOLLOWING, LIKELIEST, TOP_P = 32, 256, 0.95
CONTEXTS, CONTEXT_LENGTH = 64, 24
RESTART = 0.15
"""How often a token of a chain does not follow from the one before it."""


class Kinds:
    """The inputs of one model and task, below a directory."""

    def __init__(
        self, teacher: Teacher, task: str, data: Path, work: Path, rows: int, wide: int
    ) -> None:
        self.teacher, self.task, self.rows, self.wide = teacher, task, rows, wide
        self.data, self.work = data, work
        self.table, self.longest = teacher.table, teacher.task.max_length
        tokenizer, size = teacher.tokenizer, len(teacher.table)
        pieces = [tokenizer.decode([k]) for k in range(size)]
        self._white = np.array([not piece.strip() for piece in pieces])
        self._special = np.zeros(size, dtype=bool)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        self._special[[k for k in special if k < size]] = True
        self._ends = self._special | np.array(["\n\n" in piece for piece in pieces])

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
        if kind == "labelled":
            return self.write_labelled(self.rows, 100)
        if kind == "written":
            return {"tokens": self._write(None, self.rows, 7)}
        if kind == "real":
            return self.read("train", self.rows)
        if "+" in kind:
            halves = [self.get(name) for name in kind.split("+")]
            wide = [
                np.pad(x, [(0, 0), (0, self.longest - x.shape[1])], constant_values=-1)
                for x in halves
            ]
            return {"tokens": self.join(*wide)}
        if kind == "shuffled":
            tokens, rng = self.get("labelled").copy(), np.random.default_rng(5)
            for row in tokens:
                count = (row >= 0).sum()
                row[:count] = rng.permutation(row[:count])
            return {"tokens": tokens}
        if kind.startswith("unigram"):
            drawn = self._draw(self._find_average(kind == "unigram-own"), 0)
        elif kind == "vocabulary":
            drawn = VocabularySampler(self.table).draw_ids(mix_seeds(0, 0, self.rows), self.longest)
        else:
            drawn = self._topical(11) if kind == "topical" else self._chain("topical" in kind, 21)
        lengths = draw_lengths(self.longest, 0, 0, -(-self.rows // 64)).repeat(64)[: self.rows]
        tokens = drawn.astype(np.int32)
        tokens[np.arange(self.longest) >= lengths[:, None]] = -1
        return {"tokens": tokens}

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

    def write_labelled(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """Have the model write texts for each label; returns tokens and labels, (N,)."""
        labels = self.teacher.task.label_names
        each = -(-count // len(labels))
        parts = [self._write(label, each, seed + k) for k, label in enumerate(labels)]
        gold = np.repeat(np.arange(len(labels)), each)
        order = np.random.default_rng(seed).permutation(len(gold))[:count]
        return {"tokens": np.concatenate(parts)[order], "gold": gold[order]}

    def _prompt(self, label: str | None) -> list[int]:
        chat, tokenizer = self.teacher.chat, self.teacher.tokenizer
        labelled, plain = ASKED[self.task][2 * chat : 2 * chat + 2]
        text = plain
        if label is not None:
            text = labelled.replace("{label}", SPOKEN.get(label, label.lower()))
        if not chat:
            return list(tokenizer(text)["input_ids"])
        asked = [{"role": "user", "content": text}]
        shown = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        return list(tokenizer(str(shown), add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def _write(self, label: str | None, count: int, seed: int) -> np.ndarray:
        model, parts = self.teacher.model, []
        draw = torch.Generator(device=self.table.device).manual_seed(seed)
        prompt = self.teacher.look_up(np.array([self._prompt(label)]))
        with self.teacher.suspend():
            for begin in range(0, count, self.wide):
                inputs = prompt.expand(min(self.wide, count - begin), -1, -1)
                found, past = [], None
                for _ in range(LONGEST[self.task]):
                    output = model(
                        inputs_embeds=inputs, past_key_values=past, use_cache=True, logits_to_keep=1
                    )
                    past = output.past_key_values
                    logits, ids = output.logits[:, -1, : len(self.table)].topk(LIKELIEST, dim=1)
                    chances = logits.float().softmax(dim=1)
                    before = chances.cumsum(dim=1) - chances
                    chances = chances.masked_fill(before >= TOP_P, 0.0)
                    found.append(ids.gather(1, torch.multinomial(chances, 1, generator=draw)))
                    inputs = self.table[found[-1]]
                parts.append(torch.cat(found, dim=1).cpu().numpy())
        return self._trim(np.concatenate(parts).astype(np.int32))

    def _trim(self, tokens: np.ndarray) -> np.ndarray:
        """Cut texts at blank lines and special tokens, drop white space in front, pad with -1."""
        result = np.full_like(tokens, -1)
        for row, ids in enumerate(tokens):
            begin = int(np.argmin(self._white[ids]))
            ends = np.flatnonzero(self._ends[ids[begin:]])
            kept = ids[begin : begin + (ends[0] if len(ends) else len(ids))]
            result[row, : len(kept)] = kept
            result[row, 0] = max(0, result[row, 0])  # a text has at least one token
        return result

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
        for column, label in enumerate(self.teacher.task.label_names):
            own = kept["tokens"][kept["gold"] == column]
            words = own[:CONTEXTS]
            counts = np.bincount(words[words >= 0], minlength=len(self.table)).astype(float)
            counts[self._special] = 0
            average = self._average_behind(own, self._prompt(label))
            topics.append(0.6 * average + 0.4 * counts / counts.sum())
        average = self._average_behind(self.get("written"), self._prompt(None))
        return {"topics": np.array(topics), "average": average}

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
        prompt = self.teacher.look_up(np.array([self._prompt(None)]))
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
