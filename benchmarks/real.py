"""Measure real language models as teachers: as they answer, and in every way that is better.

    python -m benchmarks.real --models DIR --data DIR --out benchmarks/real.md

DIR of models holds smollm2, gemma3 and qwen as transformers directories (or links to others), DIR
of data a folder a data set.  What a model answers is kept under --work, so a run goes on where
it stopped; the table is written anew after every part.  Defaults were chosen on it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import format_head, format_row, run_sections
from cache.draw import (
    LengthRule,
    VocabularySampler,
    build_sampler,
    mix_seeds,
    quantise_distribution,
)
from stages import lm
from stages.inputs import SamplingSettings
from stages.metrics import compute_scores, fit_prior
from stages.reporter import SilentReporter
from stages.tasks import Task, Verbaliser, build_verbaliser, fit_tokenizer, load_task
from stages.teacher.fill import average_next_token
from stages.teacher.generation import write_texts
from stages.teacher.plan import make_teacher
from stages.teacher.teacher import Callbacks, Teacher
from stages.texts import TextRow, encode_texts

MODELS = {
    "qwen": "Qwen2.5-Coder-0.5B-Instruct",
    "gemma3": "Gemma-3-270m",
    "smollm2": "SmolLM2-135M-Instruct",
}
DATA = {"ag_news": "ag_news/test", "reddit": "reddit/test", "emotions": "goemotions/test"}
BATCH_POSITIONS = 1024
CONTEXTS, CONTEXT_LENGTH, LONGEST_WRITTEN = 64, 32, 64
BLOCK = 100
"""Test texts whose answers are kept together, so that more texts later are more blocks."""
TRIED_LENGTH = 16
SEED = 0
SETS = ("test", "unigram", "vocabulary", "self")

# Two other ways to ask; the first is the bundled task's.
PROMPTS = {
    "ag_news": (
        (
            "Classify the topic of the news article as World, Sports, Business or Technology.\n\n"
            "Article: ",
            "\nTopic:",
        ),
        (
            "News article:\n",
            "\n\nQuestion: Is it about world politics, sports, business or technology?\nAnswer:",
        ),
    ),
    "reddit": (
        (
            "Classify the emotion of the comment as Positive or Negative.\n\nComment: ",
            "\nEmotion:",
        ),
        (
            "Reddit comment:\n",
            "\n\nQuestion: Does it express a positive or a negative emotion?\nAnswer:",
        ),
    ),
    "emotions": (
        (
            "Classify the emotion of the comment as Anger, Disgust, Fear, Joy, Sadness or "
            "Surprise.\n\nComment: ",
            "\nEmotion:",
        ),
        (
            "Reddit comment:\n",
            "\n\nQuestion: Does it express anger, disgust, fear, joy, sadness or surprise?"
            "\nAnswer:",
        ),
    ),
}


@dataclass(frozen=True)
class Setting:
    """One model asked in one way."""

    model: str
    task: str
    prompt: int = 0
    chat: bool = False

    @property
    def asked(self) -> Task:
        """The task with its prompt."""
        task = load_task(self.task)
        if self.prompt == 0:
            return task
        prompt, suffix = PROMPTS[self.task][self.prompt - 1]
        return replace(task, prompt=prompt, suffix=suffix)


@dataclass(frozen=True)
class WordScores(Verbaliser):
    """Gives the score of every word that any way of scoring asks for, not a label's."""

    whole: Any = None
    first: Any = None  # None where first tokens cannot tell the labels apart

    @property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """Those of whole words, then those of first tokens."""
        return self.whole.sequences + (() if self.first is None else self.first.sequences)

    def compute_class_logits(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores as they are."""
        return scores.float()

    def reduce(self, scores: np.ndarray, word: str, label: str) -> np.ndarray | None:
        """Return class logits, shape (N, K), of kept scores; None where there are none."""
        count = len(self.whole.sequences)
        part, way = (scores[:, :count], self.whole)
        if word == "first-token":
            part, way = scores[:, count:], self.first
        if way is None:
            return None
        found = replace(way, label_score=label).compute_class_logits(torch.from_numpy(part))
        return np.asarray(found)


def make_word_scores(task: Task, tokenizer: Any, chat: bool) -> WordScores:
    """Look up the label words in both ways of scoring a word."""
    whole = build_verbaliser(replace(task, word_score="whole"), tokenizer, chat)
    try:
        first = build_verbaliser(replace(task, word_score="first-token"), tokenizer, chat)
    except Exception as error:
        print(f"first tokens: {error}", file=sys.stderr)
        first = None
    names = [str(k) for k in range(len(whole.sequences) + len(first.sequences if first else ()))]
    return WordScores(whole.words, whole.columns, tuple(names), whole=whole, first=first)


class Bench:
    """One model, loaded when it is first asked, and what it has answered before."""

    def __init__(self, args: argparse.Namespace, model: str) -> None:
        self.args, self.name, self.path = args, model, Path(args.models) / model
        self._teachers: dict[Setting, Teacher] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return lm.load_language_tokenizer(lm.resolve_model(str(self.path)))

    @cached_property
    def identity(self) -> str:
        """A hash of the model's files."""
        weights = [*sorted(self.path.glob("*.safetensors")), self.path / "tokenizer.json"]
        return hashlib.sha256(b"".join(_hash(path) for path in weights)).hexdigest()[:16]

    @cached_property
    def model(self) -> Any:
        """The model itself, in float32."""
        folder = lm.resolve_model(str(self.path))
        return lm.load_language_model(folder, "cpu", "float32", "none")

    def teach(self, setting: Setting) -> Teacher:
        """Return the teacher of one way of asking; the model has one at a time."""
        if setting not in self._teachers:
            for teacher in self._teachers.values():
                teacher.forward_pass.leave()
                self.model.set_output_embeddings(teacher._full_head)
            verbaliser = make_word_scores(setting.asked, self.tokenizer, setting.chat)
            self._teachers = {
                setting: make_teacher(
                    self.model,
                    self.tokenizer,
                    # The ways to run the model are tried on inputs of that length, which is slow.
                    replace(setting.asked, max_length=TRIED_LENGTH),
                    setting.chat,
                    verbaliser,
                    SilentReporter(),
                )
            }
        return self._teachers[setting]

    def has_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.tokenizer.chat_template)

    def recall(self, key: dict[str, Any], make: Any) -> dict[str, np.ndarray]:
        """Return what is kept for a key, made and kept where it is not."""
        text = json.dumps({"model": self.identity, **key}, sort_keys=True)
        path = Path(self.args.work) / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
        if not path.is_file():
            if self.args.report:
                return {}
            arrays = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".partial.npz")
            np.savez(unfinished, **arrays)
            unfinished.replace(path)
        with np.load(path) as found:
            return dict(found)

    def draw(self, setting: Setting, name: str) -> dict[str, np.ndarray]:
        """Return the tokens (N, longest) and lengths (N,) of a set of inputs, without texts."""
        task, rows = setting.asked, self.args.rows
        # The same rows for every prompt, as a cache a prompt has them.
        first = replace(setting, prompt=0)
        key = {"inputs": name, "task": first.task, "chat": first.chat, "rows": rows, "seed": SEED}
        if name == "self":
            key["rows"] = self.args.written

        def make() -> dict[str, np.ndarray]:
            seeds = mix_seeds(SEED, 0, int(key["rows"]))
            if name == "self":
                longest = min(task.max_length, LONGEST_WRITTEN)
                silent = Callbacks(lambda count: None, print)
                tokens = write_texts(self.teach(first), seeds, SamplingSettings(), longest, silent)
                return {"tokens": tokens, "lengths": (tokens >= 0).sum(axis=1).astype(np.int32)}
            rule = LengthRule("uniform", 1, task.max_length)
            lengths = rule.draw_lengths(SEED, 0, rows)
            teacher = self.teach(first)
            if name == "unigram":
                own = VocabularySampler(teacher.table).draw_ids(
                    mix_seeds(SEED, 2**40, CONTEXTS), CONTEXT_LENGTH
                )
                average = average_next_token(teacher, torch.from_numpy(own))
                thresholds = quantise_distribution(average.numpy())
                sampler = build_sampler("unigram", table=teacher.table, thresholds=thresholds)
                tokens = sampler.draw_ids(seeds, task.max_length)
            else:
                tokens = VocabularySampler(teacher.table).draw_ids(seeds, task.max_length)
            return {"tokens": np.asarray(tokens).astype(np.int32), "lengths": lengths}

        return self.recall(key, make)

    def read(self, setting: Setting) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the tokens of the test texts that are used, and their labels."""
        task = setting.asked
        rows = list(read_test(Path(self.args.data) / f"{DATA[setting.task]}.jsonl.gz", task))
        order = np.random.default_rng(SEED).permutation(len(rows))[: self.args.texts]
        chosen = [rows[k] for k in order]
        cut = fit_tokenizer(task, self.tokenizer, setting.chat)
        texts = encode_texts([row for row, _ in chosen], cut, task.max_length, SilentReporter())
        gold = np.array([column for _, column in chosen])
        return {"tokens": texts.tokens, "lengths": texts.lengths}, gold

    def answer(self, setting: Setting, name: str) -> tuple[Any, np.ndarray | None, WordScores]:
        """Return the scores kept of a set (with seconds), its labels, and what reduces them."""
        task, gold = setting.asked, None
        words = make_word_scores(task, self.tokenizer, setting.chat)
        key: dict[str, Any] = {
            "prompt": task.prompt,
            "suffix": task.suffix,
            "chat": setting.chat,
            "words": words.sequences,
            "set": name,
        }
        if name == "test":
            inputs, gold = self.read(setting)
        else:
            inputs = self.draw(setting, name)
            if not inputs:
                return {}, None, words

        def make(rows: slice) -> dict[str, np.ndarray]:
            teacher, began = self.teach(setting), time.monotonic()
            silent = Callbacks(lambda count: None, print)
            scores = teacher.answer_texts(
                inputs["tokens"][rows], inputs["lengths"][rows], BATCH_POSITIONS, silent
            )
            return {"scores": scores, "seconds": np.array(time.monotonic() - began)}

        parts = []
        for begin in range(0, len(inputs["lengths"]), BLOCK):
            rows = slice(begin, begin + BLOCK)
            part = self.recall(
                key | {"tokens": _hash_tokens(inputs, rows)}, lambda rows=rows: make(rows)
            )
            if not part:
                return {}, None, words
            parts.append(part)
        found = {
            "scores": np.concatenate([part["scores"] for part in parts]),
            "seconds": np.array(sum(float(part["seconds"]) for part in parts)),
        }
        print(f"{setting} {name}: {'known' if found else 'not there'}", file=sys.stderr, flush=True)
        return found, gold, words


def read_test(path: Path, task: Task) -> Iterator[tuple[TextRow, int]]:
    """Yield the texts of a test file that have exactly one of the task's labels."""
    names = list(task.label_names)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            label = row.get("ekman", row.get("label"))
            if isinstance(label, list):
                label = label[0] if len(label) == 1 else None
            if label in names:
                yield TextRow(number, row["text"], None), names.index(label)


def _hash_tokens(inputs: dict[str, np.ndarray], rows: slice) -> str:
    tokens, lengths = inputs["tokens"][rows], inputs["lengths"][rows]
    joined = b"|".join(x[:n].astype("<i4").tobytes() for x, n in zip(tokens, lengths, strict=True))
    return hashlib.sha256(joined).hexdigest()[:24]


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, shape (N, K), float32."""
    return torch.from_numpy(logits).softmax(dim=1).numpy()


@dataclass(frozen=True)
class Line:
    """One line of the table: how it was asked, and how it did."""

    accuracy: float
    macro_f1: float
    shares: tuple[float, ...]

    def __str__(self) -> str:
        shares = " / ".join(f"{share:.0%}"[:-1] for share in self.shares)
        return f"{self.accuracy:.1%}"[:-1] + f" ({self.macro_f1:.1%}"[:-1] + f"; {shares})"


def judge(logits: np.ndarray, gold: np.ndarray, names: tuple[str, ...]) -> Line:
    """Compare answers, class logits (N, K), with the right columns (N,)."""
    given = logits.argmax(axis=1)
    scores = compute_scores(gold, given, names, 0.0)
    shares = np.bincount(given, minlength=len(names)) / len(given)
    return Line(scores.accuracy, scores.macro_f1, tuple(shares.tolist()))


def take_prior(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take the prior of some rows' class logits off others'."""
    return logits - np.array(fit_prior(softmax(rows)).biases)


def list_settings(bench: Bench) -> list[tuple[Setting, tuple[str, ...]]]:
    """Return what is asked of a model, the most telling first, and on which sets of inputs."""
    found: list[tuple[Setting, tuple[str, ...]]] = [(Setting(bench.name, t), SETS) for t in DATA]
    if bench.has_chat():
        found += [(Setting(bench.name, task, chat=True), SETS[:3]) for task in DATA]
    for prompt in range(1, bench.args.prompts):
        found += [(Setting(bench.name, task, prompt), ("test", "unigram")) for task in DATA]
    return found


def describe_setting(bench: Bench, setting: Setting, sets: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of the table on one way of asking."""
    names = setting.asked.label_names
    kept = {name: bench.answer(setting, name) for name in sets}
    if not kept["test"][0]:
        return
    (tested, gold, words) = kept["test"]
    way = f"prompt {setting.prompt + 1}" + (", chat" if setting.chat else "")
    for word, label in (
        ("first-token", "max"),
        ("first-token", "sum"),
        ("whole", "max"),
        ("whole", "sum"),
    ):
        logits = words.reduce(tested["scores"], word, label)
        if logits is None or gold is None:
            continue
        cells = [judge(logits, gold, names)]
        for name in SETS[1:]:
            rows = kept[name][0] if name in kept else {}
            if rows:
                other = words.reduce(rows["scores"], word, label)
                cells.append(judge(take_prior(logits, other), gold, names))  # type: ignore[arg-type]
            else:
                cells.append("–")  # type: ignore[arg-type]
        cells.append(judge(take_prior(logits, logits), gold, names))
        seconds = f"{float(tested['seconds']):.0f}"
        yield format_row(
            [MODELS[bench.name], setting.task, way, f"{word}, {label}", *cells, seconds]
        )


def describe_average(bench: Bench, task: str) -> Iterator[str]:
    """Yield the lines on three prompts averaged, their priors taken off first."""
    for word, label in (("first-token", "max"), ("whole", "max"), ("whole", "sum")):
        plain, calibrated, gold = [], [], None
        for prompt in range(3):
            setting = Setting(bench.name, task, prompt)
            (tested, gold, words), rows = (bench.answer(setting, x) for x in ("test", "unigram"))
            if not tested or not rows[0]:
                return
            logits = words.reduce(tested["scores"], word, label)
            other = words.reduce(rows[0]["scores"], word, label)
            if logits is None or other is None:
                return
            plain.append(np.log(softmax(logits)))
            calibrated.append(np.log(softmax(take_prior(logits, other))))
        if gold is not None:
            names = load_task(task).label_names
            cells = [judge(np.mean(x, axis=0), gold, names) for x in (plain, calibrated)]
            yield format_row(
                [MODELS[bench.name], task, "3 prompts", f"{word}, {label}", *cells, *"––––"]
            )


def measure(bench: Bench, task: str) -> Iterator[str]:
    """Ask one model about one task in every way, and yield the table."""
    args = bench.args
    names = load_task(task).label_names
    yield (
        f"{args.texts:,} test texts at most, {args.rows:,} random rows, {args.written:,} texts "
        f"that the model wrote; accuracy in % (macro-F1; answers given to {', '.join(names)} in %)."
        "\n"
    )
    yield format_head(
        ["model", "task", "asked", "scored", "as it answers"]
        + [f"prior of {name}" for name in (*SETS[1:], "the test texts (not allowed)")]
        + ["s"]
    )
    for setting, sets in list_settings(bench):
        if setting.task == task:
            yield from describe_setting(bench, setting, sets)
    if args.prompts == 3:
        yield from describe_average(bench, task)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="directory of the models")
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--work", type=Path, default=Path("data/real"), help="what is kept")
    parser.add_argument("--out", type=Path, help="Markdown file; its other sections stay")
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tasks", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--texts", type=int, default=2000, help="test texts a task")
    parser.add_argument("--rows", type=int, default=512, help="random rows a set")
    parser.add_argument("--written", type=int, default=128, help="texts that the model writes")
    parser.add_argument("--prompts", type=int, default=3, choices=(1, 3), help="prompts a task")
    parser.add_argument("--report", action="store_true", help="ask no model: write what is kept")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for, and keep the tables."""
    args = parse_arguments(arguments)
    typed = ["benchmarks.real", *(sys.argv[1:] if arguments is None else arguments)]
    benches = {model: Bench(args, model) for model in args.only}
    sections: dict[str, Callable[[], Iterator[str]]] = {
        f"Teachers: {MODELS[model]}, {task}": partial(measure, benches[model], task)
        for task in args.tasks
        for model in args.only
    }
    run_sections("Real language models", typed, sections, args.out)


if __name__ == "__main__":
    main()
