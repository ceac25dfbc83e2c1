"""The study: ``python -m benchmarks.gap --data DIR [--only PART]``, then ``… --report``.

DIR/<task>/ holds {train,test}.jsonl.gz; they are measured on, and nothing is chosen by them.
Students that are in ``--work`` are not trained again; several processes share the work.  A student
takes one to three minutes of one core.  ``--report`` writes benchmarks/gap.md and gap.png from what
is there and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from benchmarks.gap.pages import write_report
from benchmarks.gap.pools import OWN, Pool, Source, make_pool
from benchmarks.gap.trials import Variant, run_variant
from benchmarks.gap.variants import PARTS
from stages.lm import find_start_id

OWN_ROWS = 8192
"""Rows of inputs that cost more than an answer: the model's own words, and real texts."""
TEST_ROWS = {"imdb": 3000, "ag_news": 7600, "reddit": 2933}


class Study:
    """What the students share."""

    def __init__(self, work: Path, data: Path) -> None:
        self.work, self.data = work, data
        self.open_source = cache(Source)

    def open_pool(self, task: str, kind: str, lengths: str, rows: int, part: str) -> Pool:
        """Make or read a pool."""
        if kind == "real":
            rows = TEST_ROWS[task] if part != "train" else 25000
        elif "self" in kind:
            rows = min(rows, OWN_ROWS)
        if kind == "real" or "self" in kind:
            lengths = OWN
        return make_pool(
            self.open_source, self.work, task, kind, rows=rows, lengths=lengths, part=part,
            data=self.data,
        )  # fmt: skip

    def run(self, variant: Variant) -> dict[str, object]:
        """Train and measure one student."""
        task = variant.task
        kinds = {"vocabulary": 1024, "unigram": 1024, "self": 1024, "real": 0}
        held_out = {
            kind: (kind, self.open_pool(task, kind, "log-uniform", rows, "held-out"))
            for kind, rows in kinds.items()
        }
        source = self.open_source(task)
        return run_variant(
            variant,
            lambda kind, lengths, rows: self.open_pool(task, kind, lengths, rows, "train"),
            held_out,
            source.table,
            find_start_id(source.tokenizer),
            source.task.label_names,
            source.task.max_length,
        )


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("data/gap"))
    parser.add_argument("--data", type=Path, help="folder of <task>/{train,test}.jsonl.gz")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gap.md"))
    options = parser.parse_args()
    if options.report:
        print(write_report(options.work, options.out))
        return
    if options.data is None:
        parser.error("give --data, or --report")
    study, runs = Study(options.work, options.data), options.work / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for part in options.only or PARTS:
        for variant in PARTS[part]():
            path = runs / variant.file
            try:  # an empty file is a run that some process has begun
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            try:
                found = study.run(variant)
            except BaseException:
                path.unlink()
                raise
            path.write_text(json.dumps(asdict(variant) | {"found": found}))
            print(f"{variant.file}: {found}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()
