"""The method beside training texts: ``make results DATA=DIR``.

For each task: the teacher, the student from random inputs (no text), and the student from the
texts of DIR/<task>/train.jsonl.gz labelled by the teacher, each on DIR/<task>/test.jsonl.gz.
Without DIR only agreement on held-out random inputs is measured.  Caches and students that are
there already are used; the table goes to benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TASKS = ("imdb", "ag_news", "reddit")
OUT = Path("data/results")


def run(*arguments: str | Path) -> None:
    """Run a pipeline command, its log on this terminal."""
    print("$ pipeline", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "pipeline", *map(str, arguments)], check=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read one of the commands' result files."""
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def make_student(task: str, kind: str, arch: str, teacher: tuple[str | Path, ...]) -> Path:
    """Fill the cache and train the student on it, unless it is there; return its directory."""
    summary = OUT / f"{task}-{kind}.teacher.json"
    model = OUT / f"{task}-{kind}-{arch}"
    seconds = time.monotonic()
    run("teacher", "--task", task, "--summary", summary, *teacher)
    if (model / "training.json").is_file():
        trained = read_json(model / "training.json")["fingerprint"]
        if trained == read_json(summary)["fingerprint"]:
            print(f"{model} is there")
            return model
    run("student", "--task", task, "--arch", arch, "--from", summary, "--out", model)
    print(f"teacher and student took {time.monotonic() - seconds:.0f} s", flush=True)
    return model


def measure(model: Path, data: Path, *more: str) -> dict[str, Any]:
    """Evaluate a student, unless that was done since it was trained."""
    target = OUT / f"{model.name}.json"
    trained = (model / "training.json").stat().st_mtime
    if target.is_file() and target.stat().st_mtime > trained:
        return read_json(target)
    run("evaluate", "--model", model, "--data", data, "--metrics", target, *more)
    return read_json(target)


def main() -> None:
    """Make everything that is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="folder of <task>/{train,test}.jsonl.gz")
    parser.add_argument("--arch", default="mini")
    parser.add_argument("--model", default="auto", help="the teacher")
    parser.add_argument("--task", action="append", help="only these; the table is then not kept")
    options = parser.parse_args()
    lines = []
    if options.data:
        lines += [
            "| task | teacher | student, random inputs | of the teacher's | "
            "student, training texts | agreement, random inputs |",
            "|---|---|---|---|---|---|",
        ]
    else:
        lines += ["| task | agreement on held-out random inputs |", "|---|---|"]
    for task in options.task or TASKS:
        ours = make_student(task, "random", options.arch, ("--model", options.model))
        if not options.data:
            target = OUT / f"{ours.name}.json"
            run("evaluate", "--model", ours, "--metrics", target)
            lines.append(f"| {task} | {read_json(target)['agreement']:.1%} |")
            continue
        folder = Path(options.data) / task
        texts = make_student(
            task,
            "texts",
            options.arch,
            ("--model", options.model, "--texts", folder / "train.jsonl.gz"),
        )
        found = measure(ours, folder / "test.jsonl.gz", "--teacher", options.model)
        text_scores = measure(texts, folder / "test.jsonl.gz")["student"]
        teacher, student = found["teacher"], found["student"]
        cells = [f"{s['accuracy']:.1%} / {s['macro_f1']:.1%}" for s in (teacher, student)]
        lines.append(
            f"| {task} | {cells[0]} | {cells[1]} | "
            f"{student['accuracy'] / teacher['accuracy']:.3f} | "
            f"{text_scores['accuracy']:.1%} / {text_scores['macro_f1']:.1%} | "
            f"{found['agreement']:.1%} |"
        )
    table = "\n".join(lines) + "\n"
    print("\n" + table)
    if options.data and not options.task:
        Path("benchmarks/results.md").write_text(table)


if __name__ == "__main__":
    main()
