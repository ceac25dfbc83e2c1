"""The teacher against users' loops and the hardware: ``python -m benchmarks.teacher``.

A Llama of 8 layers × 512 wide with random weights answers rows of log-uniform lengths behind a
short and a long prompt, beside a loop as anyone writes it, one as a careful user writes it, and
the matrix products alone; then come memory, the rest of the stage, a profile, number formats and
the compiler.  ``--out benchmarks/teacher.md`` keeps the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.anatomy import measure_profile, measure_stage
from benchmarks.comparison import QUICK, Effort, measure_memory, measure_own_memory, measure_speed
from benchmarks.variants import measure_compiling, measure_precision
from pipeline.console import quieten_libraries

SECTIONS = ("speed", "memory", "stage", "profile", "formats", "compiling")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sections, print them, and keep them where told to."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(given)
    quieten_libraries()
    effort = QUICK if options.quick else Effort()
    effort = replace(effort, rows=options.rows or effort.rows)
    if options.memory_of:
        print(json.dumps(measure_own_memory(effort, options.memory_of, options.prompt)))
        return
    lines = []
    for line in measure_sections(options, effort, given):
        print(line, flush=True)
        lines.append(line)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.teacher",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="file for the tables")
    parser.add_argument(
        "--rows", type=int, help="rows the teacher answers in a round; 64 share a length"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model: figures mean nothing")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", help="some of the sections")
    # How a process of its own is asked for one way's peak memory.
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--prompt", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure_sections(
    options: argparse.Namespace, effort: Effort, given: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of all sections that are wanted."""
    command = shlex.join(["python", "-m", "benchmarks.teacher", *given])
    yield f"# The teacher at the hardware's limit (`{command}`)\n"
    yield (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load average "
        f"{os.getloadavg()[0]:.1f} at the start; torch {torch.__version__}; where nothing else is "
        f"said, a {effort.shape.words}, float32, on the CPU."
    )
    if options.quick:
        yield "\nA tiny model, to try the script: its figures mean nothing."
    with tempfile.TemporaryDirectory(prefix="teacher-") as name:
        folder = Path(name)
        sections: dict[str, Callable[[], Iterator[str]]] = {
            "speed": lambda: measure_speed(effort),
            "memory": lambda: measure_memory(effort, forward_options(options)),
            "stage": lambda: measure_stage(effort, folder),
            "profile": lambda: measure_profile(effort),
            "formats": lambda: measure_precision(effort, folder / "formats", "cpu"),
            "compiling": lambda: measure_compiling(effort, "cpu"),
        }
        for section in options.only or SECTIONS:
            yield from sections[section]()


def forward_options(options: argparse.Namespace) -> list[str]:
    """Return the options by which another process measures the same."""
    quick = ["--quick"] if options.quick else []
    return quick if options.rows is None else [*quick, "--rows", str(options.rows)]


if __name__ == "__main__":
    main()
