"""The teacher against users' loops and the hardware: ``python -m benchmarks.teacher``.

A Llama of 8 layers × 512 wide with random weights answers rows of log-uniform lengths behind a
short and a long prompt, beside a loop as anyone writes it, one as a careful user writes it, and
the matrix products alone; then come memory, the rest of the stage, a profile, number formats and
the compiler.  ``--out benchmarks/teacher.md`` keeps the tables.

On a CUDA device a model as large as Llama-2-7b is measured instead, made on the device; nothing is
fetched.  ``--only accelerator --layers 2 --width 256`` tries that on a CPU.
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

from benchmarks.accelerator import Load, measure_accelerator
from benchmarks.anatomy import measure_profile, measure_stage
from benchmarks.comparison import QUICK, Effort, measure_memory, measure_own_memory, measure_speed
from benchmarks.subjects import LLAMA_7B, TINY
from benchmarks.variants import measure_compiling, measure_precision
from pipeline.console import quieten_libraries
from stages.devices import choose_device

ON_CPU = ("speed", "memory", "stage", "profile", "formats", "compiling")
ON_CUDA = ("accelerator", "formats", "compiling")
SECTIONS = (*ON_CPU, "accelerator")


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
    device = choose_device(options.device).value
    lines = []
    for line in measure_sections(options, effort, device, given):
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", help="some of the sections")
    parser.add_argument("--layers", type=int, help="of the accelerator's model, instead of 32")
    parser.add_argument("--width", type=int, help="likewise, a multiple of 128, instead of 4096")
    # How a process of its own is asked for one way's peak memory.
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--prompt", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure_sections(
    options: argparse.Namespace, effort: Effort, device: str, given: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of all sections that are wanted."""
    cuda = torch.device(device).type == "cuda"
    load = choose_load(options)
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
            "formats": lambda: measure_precision(effort, folder / "formats", device),
            "compiling": lambda: measure_compiling(effort, device),
            "accelerator": lambda: measure_accelerator(load, device),
        }
        for section in options.only or (ON_CUDA if cuda else ON_CPU):
            yield from sections[section]()


def forward_options(options: argparse.Namespace) -> list[str]:
    """Return the options by which another process measures the same."""
    quick = ["--quick"] if options.quick else []
    return quick if options.rows is None else [*quick, "--rows", str(options.rows)]


def choose_load(options: argparse.Namespace) -> Load:
    """Return what the accelerator is measured with."""
    load = Load(LLAMA_7B, 2048, 256, 8192)
    if options.quick:
        load = Load(TINY, 256, 64, 256, "off", whole=1000)
    shape = replace(load.shape, layers=options.layers or load.shape.layers)
    if options.width:
        # Heads and MLP in Llama's proportions.
        inner = options.width * 43 // 16
        heads = max(1, options.width // 128)
        shape = replace(shape, width=options.width, inner=inner, heads=heads)
    return replace(load, shape=shape, rows=options.rows or load.rows)


if __name__ == "__main__":
    main()
