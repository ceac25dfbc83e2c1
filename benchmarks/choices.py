"""Why the defaults are what they are: ``python -m benchmarks.choices samplers --data DIR``.

``samplers``: the same student from `vocabulary`, `unigram` and `uniform` inputs; ``objectives``:
from `vocabulary` inputs under each objective.  Judged by agreement with the mini teacher on 2,000
texts of DIR/<task>/train.jsonl.gz (no test file is looked at); the angles are those on held-out
random inputs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

VARIANTS = {
    "samplers": [(("--sampler", name), ()) for name in ("vocabulary", "unigram", "uniform")],
    "objectives": [
        (("--sampler", "vocabulary"), ("--objective", name))
        for name in ("kl", "generalised-kl", "l2", "algorithm-1")
    ],
}
OUT = Path("data/choices")


def run(*arguments: str | Path) -> None:
    """Run a pipeline command quietly; its errors still show."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)


def read_json(path: Path) -> dict[str, Any]:
    """Read a result file."""
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def sample_texts(source: Path, target: Path) -> None:
    """Write 2,000 texts of a training file, the same ones every time."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        rows = list(lines)
    target.write_text("".join(rows[:: len(rows) // 2000][:2000]), encoding="utf-8")


def main() -> None:
    """Run every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=VARIANTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", default="ag_news")
    parser.add_argument("--rows", default="32768")
    parser.add_argument("--steps", default="500")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    texts = OUT / f"{options.task}.jsonl"
    sample_texts(options.data / options.task / "train.jsonl.gz", texts)
    print(f"task {options.task}, {options.rows} rows, {options.steps} steps, mini student")
    print("| variant | spread of g | ‖h‖ | α | centred α | agreement, random inputs | on texts |")
    print("|---|---|---|---|---|---|---|")
    for teacher, student in VARIANTS[options.what]:
        name = (student or teacher)[1]
        summary, metrics, model = OUT / "teacher.json", OUT / "student.json", OUT / "student"
        common = ("--task", options.task)
        run(
            "teacher",
            *common,
            "--model",
            "mini",
            "--rows",
            options.rows,
            "--summary",
            summary,
            *teacher,
        )
        run(
            *("student", *common, "--arch", "mini", "--from", summary, "--steps", options.steps),
            *("--out", model, "--metrics", metrics, *student),
        )
        run(
            *("evaluate", "--model", model, "--data", texts, "--teacher", "mini"),
            *("--metrics", OUT / "texts.json"),
        )
        found, spread = read_json(metrics), read_json(summary)["spread"]
        print(
            f"| {name} | {spread:.3f} | {found['norm_h']:.3f} | {found['angle']:.3f} | "
            f"{found['centred_angle']:.3f} | {found['agreement']:.1%} | "
            f"{read_json(OUT / 'texts.json')['agreement']:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
