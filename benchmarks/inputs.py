"""Train students of real language models on inputs of many kinds.

    python -m benchmarks.inputs answer --models DIR --data DIR --work W --model qwen
    python -m benchmarks.inputs train --models DIR --data DIR --work W
    python -m benchmarks.inputs report --models DIR --data DIR --work W --out benchmarks/real.md

The first makes the inputs, has the model answer them, and leaves a job for each kind.  Any number
of the second train a student a job; they may begin while the first is at work.  All go on where
they stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import format_head, format_row, run_sections
from benchmarks.differences import describe_differences
from benchmarks.jobs import fill, name_student, write_job
from benchmarks.kinds import KINDS, Kinds
from benchmarks.questions import DATA, MODELS, read_test
from cache.opening import create_or_open
from stages.classify import load_classifier
from stages.inputs import SamplingSettings, pack_attachments
from stages.lm import load_language_tokenizer
from stages.metrics import compute_scores, fit_prior
from stages.reporter import SilentReporter
from stages.student import StudentConfig, TrainingConfig, run_student
from stages.tasks import load_task
from stages.teacher import TeacherConfig, prepare_teacher, run_teacher

CHAT = ("qwen",)
"""Models that are better in chat."""
BLOCK = 512
"""Rows whose answers are kept together."""
MIXED = "labelled+unigram"
"""What the others are held against: the default before there was noise."""
ROWS, CHOSEN, LABELLED = 8192, 512, SamplingSettings(labelled=True, top_p=0.95)
"""Rows of a kind; labelled texts of the model's own that choices are made on."""


def answer(args: argparse.Namespace) -> None:
    """Make the inputs of a model and a task, and have it answer them."""
    config = TeacherConfig(
        task=args.task,
        model=str(args.models / args.model),
        sampler="self",  # whose caches keep the tokens of their rows
        rows=args.rows,
        self_generated=0,
        cache=args.work / "caches" / args.model,
        device=args.device,
        dtype=args.dtype,
        chat=args.model in CHAT,
        batch_positions=args.positions,
        compile="off",
    )
    plan = prepare_teacher(config, SilentReporter())
    teacher = plan.teacher
    place = args.work / f"{args.model}-{args.task}"
    first = name_student(args, f"{args.model}-{args.task}-{MIXED}")
    students = [args.work / "students" / f"{first}-{seed}" for seed in (0, 1)]
    kinds = Kinds(teacher, args.task, args.data, place, args.rows, args.wide, students)

    def ask_some(tokens: np.ndarray) -> dict[str, np.ndarray]:
        lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
        logits = teacher.answer_texts(
            np.maximum(tokens, 0), lengths, args.positions, lambda _: None
        )
        return {"logits": logits}

    def ask(name: str, tokens: np.ndarray) -> np.ndarray:
        def ask_all() -> dict[str, np.ndarray]:
            # Kept block by block, since all of it may take an hour.
            parts = [
                kinds.keep(
                    f"blocks/{name}-{begin}", lambda k=begin: ask_some(tokens[k : k + BLOCK])
                )
                for begin in range(0, len(tokens), BLOCK)
            ]
            return {"logits": np.concatenate([part["logits"] for part in parts])}

        return kinds.keep(f"{name}-logits", ask_all)["logits"]

    ask("test", kinds.keep("test", lambda: kinds.read("test", args.texts))["tokens"])
    ask("chosen", kinds.keep("chosen", lambda: kinds.write(CHOSEN, 900, LABELLED))["tokens"])
    files = pack_attachments(teacher.table, plan.input_tokenizer, None)
    for kind in args.kinds:
        job = args.work / "jobs" / f"{args.model}-{args.task}-{kind}.json"
        if job.is_file():
            continue
        if kind == "uniform":  # of embeddings, not of tokens
            cache = run_teacher(replace(config, sampler="uniform"), SilentReporter()).cache
            records = map(cache.record, cache.committed())
            logits = np.concatenate([cache.read_column(each, "logits") for each in records])
            kinds.keep("uniform-logits", lambda logits=logits: {"logits": logits})
            write_job(job, args, kind, cache.manifest.fingerprint)
            continue
        tokens = kinds.get(kind)
        if "+" in kind:
            logits = kinds.join(*(ask(name, kinds.get(name)) for name in kind.split("+")))
            kinds.keep(f"{kind}-logits", lambda logits=logits: {"logits": logits})
        else:
            logits = ask(kind, tokens)
        # Nothing but the seed tells the caches of two kinds apart, whatever the list was before.
        again = replace(config, seed=zlib.crc32(kind.encode()), rows=len(tokens))
        other = prepare_teacher(again, SilentReporter())
        cache = create_or_open(
            args.work / "caches" / args.model / args.task, other.manifest, lambda kept: files
        )
        fill(cache, other, teacher, tokens, logits)
        write_job(job, args, kind, cache.manifest.fingerprint)


def train(args: argparse.Namespace) -> None:
    """Train a student a job, until there has been none for a while."""
    results, since = args.work / "results", time.monotonic()
    results.mkdir(parents=True, exist_ok=True)
    while True:
        for job in sorted((args.work / "jobs").glob("*.json"), key=os.path.getmtime):
            for seed in range(args.seeds):
                name = f"{name_student(args, job.stem)}-{seed}"
                try:
                    (results / f"{name}.taken").mkdir()
                except FileExistsError:
                    continue
                train_one(args, json.loads(job.read_text()), name, seed)
                since = time.monotonic()
        if time.monotonic() - since > args.patience:
            return
        time.sleep(1)


def train_one(args: argparse.Namespace, told: dict[str, Any], name: str, seed: int) -> None:
    """Train a student, and keep its answers to the test texts."""
    began = time.monotonic()
    config = StudentConfig(
        task=told["task"],
        arch=args.arch,
        cache=args.work / "caches" / told["model"],
        source=(told["fingerprint"],),
        prior="balanced",
        device=args.device,
        out=args.work / "students" / name,
        training=TrainingConfig(steps=args.steps, seed=seed),
    )
    trained = run_student(config, SilentReporter())
    seconds = time.monotonic() - began
    found = list(read_test(args.data / f"{DATA[told['task']]}.jsonl.gz", load_task(told["task"])))
    order = np.random.default_rng(0).permutation(len(found))[: args.texts]
    texts = [found[k][0].text for k in order]
    with np.load(args.work / f"{told['model']}-{told['task']}" / "chosen.npz") as kept:
        rows = [row[row >= 0].tolist() for row in kept["tokens"]]
    chosen = load_language_tokenizer(args.models / told["model"]).batch_decode(rows)
    student = load_classifier(trained.out, args.device)
    np.savez_compressed(
        args.work / "results" / f"{name}.npz",
        given=student.classify(texts).probabilities,
        chosen=student.classify(chosen).probabilities,
        agreement=np.array(trained.projection.agreement),
        angle=np.array(trained.projection.centred_angle),
        seconds=np.array(seconds),
    )
    print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)


def describe(args: argparse.Namespace, model: str, task: str) -> Iterator[str]:
    """Yield the table of a model and a task."""
    labels, place = load_task(task).label_names, args.work / f"{model}-{task}"

    def read(name: str) -> Any:
        with np.load(place / f"{name}.npz") as kept:
            return kept["gold"] if name in ("test", "chosen") else kept["logits"]

    def find(logits: np.ndarray) -> np.ndarray:
        return np.array(fit_prior(torch.from_numpy(logits).softmax(1).numpy()).biases)

    def judge(*seeds: np.ndarray) -> str:
        each = [compute_scores(gold, logits.argmax(axis=1), labels, 0.0) for logits in seeds]
        accuracy, macro_f1 = (
            np.array([100 * getattr(found, name) for found in each])
            for name in ("accuracy", "macro_f1")
        )
        spread = f" ± {accuracy.std(ddof=1):.1f}" if len(each) > 1 else ""
        return f"{accuracy.mean():.1f}{spread} ({macro_f1.mean():.1f})"

    def hit(*seeds: np.ndarray) -> str:
        hits = [(logits.argmax(axis=1) == read("chosen")).mean() for logits in seeds]
        return f"{100 * np.mean(hits):.1f}"

    gold, teacher, own = read("test"), read("test-logits"), read("chosen-logits")
    common, labelled = (find(read(f"{name}-logits")) for name in ("unigram", "labelled"))
    mean = torch.from_numpy(read("unigram-logits")).log_softmax(1).mean(0).numpy()
    yield (
        f"{len(gold):,} test texts; {Path(args.arch).name} students, {args.steps} steps. Accuracy "
        "in %, mean ± standard deviation of the seeds (macro-F1), with the prior of their own "
        "rows, of `unigram` rows, of labelled texts, and balanced on the test texts (not allowed). "
        f"The teacher: {judge(teacher)} as it "
        f"answers, {judge(teacher - common)} with the prior of the `unigram` rows, "
        f"{judge(teacher - mean)} with their mean log-probability, {judge(teacher - labelled)} "
        "with that of labelled texts; it names the label it wrote a text for in "
        f"{hit(own)} % as it answers, in {hit(own - common)} % with the `unigram` prior.\n"
    )
    priors = ("own prior", "prior of `unigram`", "prior of labelled", "balanced on the test texts")
    measures = ("own labelled texts, %", "agreement held out, %", "centred α, rad", "s")
    yield format_head(["inputs", "seeds", *priors, *measures])
    given: dict[str, np.ndarray] = {}
    for kind in KINDS:
        results = name_student(args, f"{model}-{task}-{kind}") + "-*.npz"
        if not (paths := sorted((args.work / "results").glob(results))):
            continue
        seeds = [dict(np.load(path)) for path in paths]
        logits, chosen, agreement, angle, seconds = (
            np.array([each[name] for each in seeds])
            for name in ("given", "chosen", "agreement", "angle", "seconds")
        )
        logits, chosen = (np.log(np.maximum(each, 1e-12)) for each in (logits, chosen))
        prior = find(read(f"{kind}-logits"))
        moved = logits + prior
        cells = [judge(*(moved - other)) for other in (prior, common, labelled)]
        cells += [judge(*(x - find(x) for x in logits)), hit(*(chosen + prior - common))]
        cells += [f"{100 * agreement.mean():.1f}", f"{angle.mean():.3f}", f"{seconds.mean():.0f}"]
        yield format_row([kind, len(seeds), *cells])
        given[kind] = (moved[0] - common).argmax(axis=1)
    yield from describe_differences(place, MIXED, given, teacher - common, labels)


def main(arguments: list[str] | None = None) -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("what", choices=("answer", "train", "report"))
    parser.add_argument("--models", type=Path, required=True, help="directory of the models")
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--work", type=Path, default=Path("data/inputs"), help="what is kept")
    parser.add_argument("--out", type=Path, help="Markdown file; its other sections stay")
    parser.add_argument("--model", default="qwen", choices=list(MODELS))
    parser.add_argument("--task", default="ag_news", choices=list(DATA))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="rows of a kind; each number has its own --work"
    )
    parser.add_argument("--texts", type=int, default=2000, help="test texts")
    parser.add_argument("--wide", type=int, default=1024, help="tokens followed at once (chain)")
    parser.add_argument("--positions", type=int, default=16384, help="most in one forward pass")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--arch", default="mini", help="of the students")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait for a job")
    args = parser.parse_args(arguments)
    if args.what != "report":
        (answer if args.what == "answer" else train)(args)
        return
    there = sorted({(each["model"], each["task"]) for each in map(_read, args.work.glob("jobs/*"))})
    size = "" if args.rows == ROWS else f", {args.rows:,} rows"
    sections = {
        f"Students: {MODELS[model]}, {task}{size}": lambda model=model, task=task: describe(
            args, model, task
        )
        for model, task in there
    }
    typed = ["benchmarks.inputs", *(sys.argv[1:] if arguments is None else arguments)]
    run_sections("Real language models", typed, sections, args.out)


def _read(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
