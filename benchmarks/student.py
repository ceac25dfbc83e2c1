"""Students in training and in use: ``python -m benchmarks.student --data DIR``.

``steps``: steps a second of stage two's loop against a bare loop.  ``speed``: students in torch,
ONNX and 8 bits on one core, beside their teacher and TF-IDF with logistic regression.  ``--out
benchmarks/student.md`` keeps the tables; a section that is measured alone replaces only itself.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import serving
from benchmarks.common import run_sections
from benchmarks.fixtures import Fixtures
from benchmarks.stepping import measure_steps
from pipeline.console import quieten_libraries

TITLE = "Students in training and in use"
HEADINGS = {"steps": "Steps a second", "speed": "Speed on one core"}
STEPS, QUICK_STEPS = {"mini": 301, "distilbert": 16}, {"static": 12}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sections, print them, and keep them where told to."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.student")
    parser.add_argument("--out", type=Path, help="file for the tables")
    parser.add_argument("--data", type=Path, help="folder of <task>/{train,test}.jsonl.gz")
    parser.add_argument(
        "--only", choices=HEADINGS, nargs="+", default=list(HEADINGS), help="some of the sections"
    )
    parser.add_argument("--quick", action="store_true", help="next to nothing: to try the script")
    options = parser.parse_args(given)
    quieten_libraries()
    # It tells of every operator of torchvision that it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    rows, steps, effort = 16384, STEPS, serving.Effort()
    if options.quick:
        rows, steps, effort = 256, QUICK_STEPS, serving.QUICK
    with tempfile.TemporaryDirectory(prefix="student-") as name:
        fixtures = Fixtures(Path(name), "reddit", rows)
        measures = {
            "steps": lambda: measure_steps(fixtures, steps),
            "speed": lambda: serving.measure_speed(fixtures, effort, options.data),
        }
        sections = {HEADINGS[section]: measures[section] for section in options.only}
        run_sections(TITLE, ["benchmarks.student", *given], sections, options.out, options.quick)


if __name__ == "__main__":
    main()
