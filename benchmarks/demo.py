"""The last step of ``make demo``: ``python -m benchmarks.demo``.

Prints what `dvc repro` left, for every task and architecture of params.yaml, and three tagged
texts of the first student.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = {
    "imdb": (
        "A wonderful film: the acting is superb and the story moved me to tears.",
        "Two hours of boring dialogue and terrible effects. A complete waste of time.",
        "The plot is thin, but I loved every minute of it 😀",
    ),
    "ag_news": (
        "Stocks fell on Monday as oil prices rose to a record high.",
        "The striker scored twice in the final minutes to win the cup.",
        "Scientists released new software that maps the surface of Mars.",
    ),
    "reddit": (
        "Thank you so much, this made my day!",
        "This is the worst thing I have ever seen, so annoying.",
        "Congratulations, I am really happy for you 😀",
    ),
}


def read_json(path: Path) -> dict[str, Any]:
    """Read one of the stages' result files."""
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def print_table(tasks: list[str], archs: list[str]) -> None:
    """Print one row a student."""
    print(
        f"\n{'task':<10} {'student':<16} {'cached rows':>11} {'agreement':>9} "
        f"{'angle':>9} {'centred':>9} {'spread of g':>11}"
    )
    for task in tasks:
        teacher = read_json(Path("data/teachers") / f"{task}.json")
        for arch in archs:
            found = read_json(Path("reports/evaluations") / f"{task}-{arch}.json")
            if "held_out" not in found:
                print(f"{task:<10} {arch:<16} accuracy {found['student']['accuracy']:.2%}")
                continue
            held = found["held_out"]
            print(
                f"{task:<10} {arch:<16} {teacher['rows']:>11,} {held['agreement']:>9.1%} "
                f"{held['angle']:>5.3f} rad {held['centred_angle']:>5.3f} rad "
                f"{teacher['spread']:>11.3f}"
            )


def tag_examples(task: str, arch: str) -> None:
    """Tag three texts with a student, as a user would."""
    texts = EXAMPLES.get(task, EXAMPLES["reddit"])
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "tag", "--model", f"data/students/{task}-{arch}"],
        input="\n".join(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"\ntagged by data/students/{task}-{arch}:")
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        print(f"  {answer['label']:<10} {answer['score']:.3f}  {answer['text']}")


def main() -> None:
    """Print the table and the examples."""
    params = yaml.safe_load(Path("params.yaml").read_text())["pipeline"]
    print_table(params["tasks"], params["archs"])
    tag_examples(params["tasks"][0], params["archs"][0])


if __name__ == "__main__":
    main()
