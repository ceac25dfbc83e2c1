"""Students in training and in use: ``python -m benchmarks.student --data DIR``.

``steps``: steps a second of stage two's loop against a bare loop.  ``speed``: students in torch,
ONNX and 8 bits on one core, beside their teacher and TF-IDF with logistic regression.
``accuracy``: what 8 bits cost on the test files.  ``--out benchmarks/student.md`` keeps the tables;
a section that is measured alone replaces only itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import torch

from benchmarks.exactness import measure_accuracy
from benchmarks.serving import measure_speed
from benchmarks.stepping import measure_steps
from benchmarks.trial import QUICK, Effort, Trial
from pipeline.console import quieten_libraries
from stages.records import read_record

TITLE = "# Students in training and in use"
HEADINGS = {
    "steps": "Steps a second",
    "speed": "Speed on one core",
    "accuracy": "Accuracy in 8 bits",
}
PACKAGES = ("torch", "transformers", "tokenizers", "onnxruntime", "scikit-learn")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sections, print them, and keep them where told to."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(given)
    quieten_libraries()
    # It tells of every operator of torchvision that it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    command = shlex.join(["python", "-m", "benchmarks.student", *given])
    with tempfile.TemporaryDirectory(prefix="student-") as name:
        trial = Trial(Path(name), options.task, QUICK if options.quick else Effort())
        measures: dict[str, Callable[[], Iterator[str]]] = {
            "steps": lambda: measure_steps(trial),
            "speed": lambda: measure_speed(trial, options.data, options.student),
            "accuracy": lambda: measure_accuracy(
                trial.folder / "accuracy", options.data, options.results
            ),
        }
        print(TITLE)
        for section in options.only:
            lines = []
            for line in chain(head_section(section, command, options.quick), measures[section]()):
                print(line, flush=True)
                lines.append(line)
            # At once: whatever fails later, this is kept.
            if options.out:
                known = options.out.read_text(encoding="utf-8") if options.out.is_file() else ""
                merged = merge_sections(known, {HEADINGS[section]: "\n".join(lines)})
                options.out.write_text(merged, encoding="utf-8")
    if options.left_out:
        print(f"\n{options.left_out}")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.student",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="file for the tables")
    parser.add_argument("--data", type=Path, help="folder of <task>/{train,test}.jsonl.gz")
    parser.add_argument("--only", choices=HEADINGS, nargs="+", help="some of the sections")
    parser.add_argument("--task", default="reddit", help="of steps and speed  [reddit]")
    parser.add_argument(
        "--student",
        type=Path,
        action="append",
        default=[],
        help="directory of a student of the task whose speed is measured; may be given more than "
        "once  [mini, distilbert and static after a few steps]",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("data/results"),
        help="folder of the students whose accuracy is measured  [data/results]",
    )
    parser.add_argument("--quick", action="store_true", help="next to nothing: to try the script")
    options = parser.parse_args(arguments)
    options.left_out = ""
    if options.data is None and "accuracy" in (options.only or ()):
        parser.error("accuracy needs --data DIR")
    if options.only is None:
        options.only = list(HEADINGS)
        if options.data is None:
            options.only.remove("accuracy")
            options.left_out = "The section on accuracy was left out: it needs --data DIR."
    for student in options.student:
        task = read_record(student)["task"]["name"]
        if task != options.task:
            parser.error(f"{student} is of the task {task}; give --task {task}")
    return options


def head_section(section: str, command: str, quick: bool) -> Iterator[str]:
    """Yield what stands above a section's own lines."""
    yield f"\n## {HEADINGS[section]}\n"
    packages = ", ".join(map(describe_package, PACKAGES))
    yield (
        f"`{command}`: {os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}), load "
        f"average {os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, "
        f"{packages}.\n"
    )
    if quick:
        yield "Next to nothing was measured, to try the script: the figures mean nothing.\n"


def describe_package(name: str) -> str:
    """Return a package's name and version."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def merge_sections(known: str, new: Mapping[str, str]) -> str:
    """Put sections into a file's text.

    Args:
        known: The text, of ``## `` sections, or empty.
        new: Sections by heading, each beginning with its heading's line; they replace those of
            the same heading.

    Returns:
        The text with all sections, in the order of :data:`HEADINGS`.
    """
    found = {}
    for part in re.split(r"^(?=## )", known, flags=re.MULTILINE)[1:]:
        found[part.split("\n", 1)[0].removeprefix("## ")] = part
    found |= new
    parts = [found[heading].strip() for heading in HEADINGS.values() if heading in found]
    return "\n\n".join([TITLE, *parts]) + "\n"


if __name__ == "__main__":
    main()
