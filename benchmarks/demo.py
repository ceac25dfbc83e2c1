"""The last step of ``make demo``: ``python -m benchmarks.demo``.

Prints what `dvc repro` left, for every task and architecture of params.yaml, and three tagged
texts of the first student.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
LINE = "{:<10} {:<16} {:>11} {:>9} {:>9} {:>9} {:>11}"


def main() -> None:
    """Print the table and the examples."""
    params = yaml.safe_load(Path("params.yaml").read_text())["functional_projection"]
    heads = ("task", "student", "cached rows", "centred", "agreement", "angle", "spread of g")
    print("\n" + LINE.format(*heads))
    for task in params["tasks"]:
        teacher = json.loads(Path(f"data/teachers/{task}.json").read_text())
        for arch in params["archs"]:
            found = json.loads(Path(f"reports/evaluations/{task}-{arch}.json").read_text())
            if "held_out" not in found:
                print(f"{task:<10} {arch:<16} accuracy {found['student']['accuracy']:.2%}")
                continue
            held = found["held_out"]
            centred, angle = (f"{held[key]:.3f} rad" for key in ("centred_angle", "angle"))
            cells = (f"{teacher['rows']:,}", centred, f"{held['agreement']:.1%}", angle)
            print(LINE.format(task, arch, *cells, f"{teacher['spread']:.3f}"))
    task = params["tasks"][0]
    student = f"data/students/{task}-{params['archs'][0]}"
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "tag", "--model", student],
        input="\n".join(EXAMPLES.get(task, EXAMPLES["reddit"])),
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"\ntagged by {student}:")
    for answer in map(json.loads, done.stdout.splitlines()):
        print(f"  {answer['label']:<10} {answer['score']:.3f}  {answer['text']}")


if __name__ == "__main__":
    main()
