r"""Say how well texts that a model wrote for the labels rank the ways of asking it.

    python -m benchmarks.choosing write --models DIR --model qwen --out own/qwen
    python -m benchmarks.real --models DIR --data own/qwen --only qwen --tasks ag_news reddit \
        --out own.md
    python -m benchmarks.choosing rank --real benchmarks/real.md --own own.md \
        --out benchmarks/choosing.md

The first has a model write texts, each of a label that the prompt names, in the form of a data set.
The second asks the model about them in every way.  The third compares the two tables.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scipy.stats import spearmanr

from benchmarks.common import format_head, format_row, run_sections
from benchmarks.questions import DATA, MODELS, TRIED_LENGTH
from cache.draw import mix_seeds
from stages import lm
from stages.inputs import SamplingSettings
from stages.reporter import SilentReporter
from stages.tasks import load_task
from stages.teacher import choose_labels, make_teacher, write_texts

Candidates = dict[tuple[str, str, str], tuple[float, float]]
"""Accuracy and macro-F1, in %, by how it was asked and scored and which prior was taken off."""
LONGEST = 96
"""Tokens of a written text at most."""
SEED = 1


def write(args: argparse.Namespace) -> None:
    """Have a model write texts for the labels of each task."""
    folder = lm.resolve_model(str(args.models / args.model))
    tokenizer = lm.load_language_tokenizer(folder)
    for name in args.tasks:
        path = args.out / f"{DATA[name]}.jsonl.gz"
        if path.is_file():
            continue
        task, reporter = load_task(name), SilentReporter()
        short = replace(task, max_length=TRIED_LENGTH)
        chat = bool(tokenizer.chat_template)
        # Anew, since a teacher leaves its task's words for its output layer.
        model = lm.load_language_model(folder, args.device, "float32", "none")
        teacher = make_teacher(model, tokenizer, short, chat, None, reporter)
        seeds, longest = mix_seeds(SEED, 0, args.texts), min(LONGEST, task.max_length)
        labelled = SamplingSettings(labelled=True, top_p=0.95)
        with reporter.track("texts", len(seeds) * longest, 0, "token") as show:
            tokens = write_texts(teacher, seeds, labelled, longest, show)
        texts = tokenizer.batch_decode([row[row >= 0].tolist() for row in tokens])
        labels = [task.label_names[k] for k in choose_labels(seeds, len(task.labels))]
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": x, "label": y} for x, y in zip(texts, labels, strict=True)]
        with gzip.open(path.with_suffix(".part"), "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.with_suffix(".part").replace(path)
        print(f"{path}: {len(rows)} texts, such as {rows[0]}", file=sys.stderr, flush=True)


def read_table(path: Path, model: str, task: str) -> Candidates:
    """Return how good each way is to ask, to score and to take a prior off."""
    found: Candidates = {}
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == [MODELS[model], task] and "prompts" not in cells[2]:
            for prior, cell in (("none", cells[4]), ("unigram", cells[5])):
                if numbers := re.match(r"(\d+\.\d) \((\d+\.\d)", cell):
                    # A section of fewer texts stands behind that of all.
                    pair = float(numbers[1]), float(numbers[2])
                    found.setdefault((cells[2], cells[3], prior), pair)
    return found


def rank(real: Path, own: Path) -> Iterator[str]:
    """Yield the table of rank correlations."""
    columns = ("candidates", "rank correlation with macro-F1", "with accuracy")
    columns += ("chosen on own texts", "its accuracy on them", "on test texts (macro-F1)")
    columns += ("the default's", "the best's")
    columns += ("agree on taking the prior off",)
    yield format_head(["model", "task", *columns])
    default = ("prompt 1", "whole, sum", "unigram")
    for model in MODELS:
        for task in DATA:
            tested, written = read_table(real, model, task), read_table(own, model, task)
            if not (both := [key for key in written if key in tested]):
                continue
            best = max(both, key=lambda key: written[key][0])
            cells: list[object] = [len(both)]
            for measure in (1, 0):
                pairs = [(written[key][0], tested[key][measure]) for key in both]
                cells.append(f"{spearmanr(pairs).statistic:.2f}")
            cells += ["; ".join(best), written[best][0]]
            highest = tuple(max(tested[key][measure] for key in both) for measure in (0, 1))
            told = (tested[best], tested[default], highest)
            cells += [f"{accuracy} ({macro_f1})" for accuracy, macro_f1 in told]
            yield format_row([MODELS[model], task, *cells, compare_priors(written, tested)])


def compare_priors(written: Candidates, tested: Candidates) -> str:
    """Return in how many ways both find accuracy as good with the prior taken off, or both not."""
    ways = {key[:2] for key in written if key in tested}

    def gains(found: Candidates, way: tuple[str, str]) -> bool:
        return found[*way, "unigram"][0] >= found[*way, "none"][0]

    agreed = sum(gains(written, way) == gains(tested, way) for way in ways)
    return f"{agreed} of {len(ways)}"


def main(arguments: list[str] | None = None) -> None:
    """Do one of the two."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("what", choices=("write", "rank"))
    parser.add_argument("--models", type=Path, help="directory of the models")
    parser.add_argument("--model", choices=list(MODELS))
    parser.add_argument("--tasks", nargs="*", default=["ag_news", "reddit"], choices=list(DATA))
    parser.add_argument("--texts", type=int, default=256, help="a task")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--real", type=Path, help="table of test texts")
    parser.add_argument("--own", type=Path, help="table of own texts")
    parser.add_argument("--out", type=Path, required=True, help="directory of texts, or a page")
    args = parser.parse_args(arguments)
    if args.what == "write":
        write(args)
        return
    typed = ["benchmarks.choosing", *(sys.argv[1:] if arguments is None else arguments)]
    section = {"Rank correlation": lambda: rank(args.real, args.own)}
    run_sections("Choosing without text", typed, section, args.out)


if __name__ == "__main__":
    main()
