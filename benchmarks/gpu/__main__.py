"""Everything that only a GPU can show: ``make gpu``, or ``python -m benchmarks.gpu``.

Whether a GPU answers as the CPU does, how near a teacher of Llama-2-7b's size comes to the
hardware's limit, how fast students train, and how long the main job takes.  Nothing is fetched or
installed.  The table is written after every row; the same command again, with the same device,
versions and sources, measures only what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Setting, die_with_parent
from benchmarks.gpu.table import DONE, FAILED, LEFT_OUT, PARTS, ROWS, Book

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "benchmarks.gpu")
PLACES = dict.fromkeys(PARTS, "benchmarks.gpu.parts") | {"teacher": "benchmarks.gpu.teacher"}
"""The module of each part, which has a function of the part's name."""
SOURCES = ("cache", "stages", "pipeline", "benchmarks", "tests/gpu")
NEEDS = (
    *("numpy", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "yaml"),
    *("accelerate", "zarr", "numcodecs", "google_crc32c", "donfig", "packaging", "pydantic"),
    *("psutil", "click", "tqdm"),
)
OPTIONAL = {"pytest": "correctness is left out", "torchao": "quantised weights are not checked"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; return 1 where a row failed or nothing can be measured."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(given)
    # Nothing is fetched, and a library that tries must not wait for an answer.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    absent = [name for name in (*NEEDS, *OPTIONAL) if importlib.util.find_spec(name) is None]
    if missing := [name for name in absent if name in NEEDS]:
        print(f"error: these packages are missing: {', '.join(missing)}", file=sys.stderr)
        return 1
    from stages.devices import choose_device
    from stages.errors import SettingError

    try:
        options.device = choose_device(options.device).value
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    notes = [f"\n{name} is not there: {OPTIONAL[name]}." for name in absent]
    book = Book(options.out, describe_run(options.device, options.quick), notes)
    if options.rows:
        return measure_rows(options, book)
    parts = [*(options.only or PARTS)]
    if "pytest" in absent and "correctness" in parts:
        parts.remove("correctness")
    rows = [number for number, row in enumerate(ROWS) if row.part in parts]
    left = [number for number in rows if not book.has(ROWS[number])]
    if len(left) < len(rows):
        there = f"{len(rows) - len(left)} of {len(rows)} rows are in {book.file} already"
        print(f"continuing: {there}; without that file all are measured", flush=True)
    book.write()
    began = time.time()
    while left:
        # One process for rows that go together, until one of them fails.
        kind = "part" if options.quick else "group"
        group = [k for k in left if getattr(ROWS[k], kind) == getattr(ROWS[left[0]], kind)]
        child = [*COMMAND, *given, "--began", f"{began}", "--rows", *map(str, group)]
        code = subprocess.run(child, preexec_fn=die_with_parent, check=False).returncode
        book.read()
        tried = [k for k in group if book.find(ROWS[k]).get("run") == began]
        untried = [k for k in group if k not in tried]
        if untried and not (tried and book.find(ROWS[tried[-1]])["status"] == FAILED):
            why = f"its process ended with {code}"
            why = "it took too long" if code == -signal.SIGALRM else why
            book.add(ROWS[untried.pop(0)], began, FAILED, why=why)
        left = [k for k in left if k in untried or k not in group]
    print(f"{options.out}: {time.time() - began:.0f} s in all", flush=True)
    return int(any(book.find(ROWS[k]).get("status") == FAILED for k in rows))


def measure_rows(options: argparse.Namespace, book: Book) -> int:
    """Measure rows of one part in this process, until one of them fails; return whether one did."""
    setting = Setting(options.device, options.quick, options.tests)
    for row in (ROWS[k] for k in options.rows):
        start = time.time()
        left, title = options.began + options.seconds - start, f"{row.part}: {row.name}"
        predicted = 5.0 if options.quick else row.seconds
        if predicted > left:
            why = f"about {predicted:.0f} s, {max(0, left):.0f} s were left"
            print(f"{title}: left out: {why}", flush=True)
            book.add(row, options.began, LEFT_OUT, why=why)
            continue
        print(f"{title}: about {predicted:.0f} s ...", flush=True)
        # Neither beyond the end, nor so long that nothing is left for the others.
        limit = left if options.quick else min(left, row.limit)
        signal.setitimer(signal.ITIMER_REAL, limit)  # which ends the process, whatever it does
        try:
            part = getattr(importlib.import_module(PLACES[row.part]), row.part)
            lines, notes, why = part(row.name, setting, limit - 5)
        except Exception as error:  # whatever it was
            text = " ".join(str(error).split())[:300]
            lines, notes, why = [], [], f"{type(error).__name__}: {text}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        spent, status = time.time() - start, FAILED if why else DONE
        book.add(row, options.began, status, lines=lines, notes=notes, why=why)
        print(f"{title}: {status}, {spent:.1f} s {why}".rstrip(), flush=True)
        if why:
            # What a failure leaves of a device's memory and context is not known.
            return 1
    return 0


def describe_run(device: str, quick: bool) -> dict[str, Any]:
    """Return what figures depend on: device, versions and sources."""
    import torch

    cuda = torch.device(device).type == "cuda"
    digest = hashlib.sha256()
    for path in [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "sources": digest.hexdigest()[:12],
        "quick": quick,
    }


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.gpu")
    parser.add_argument(
        "--out", type=Path, help="file for the table; the rows lie beside it in a .json"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; can be repeated")
    parser.add_argument("--seconds", type=float, default=480, help="to take at most  [480]")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --quick")
    parser.add_argument("--quick", action="store_true", help="tiny models: figures mean nothing")
    parser.add_argument("--tests", default="", metavar="EXPRESSION", help="pytest's -k")
    # How a process of its own is asked for rows of this run.
    parser.add_argument("--rows", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.out is None and options.quick:
        parser.error("--quick needs --out: its figures are not to lie where real ones belong")
    options.out = options.out or Path("benchmarks/gpu.md")
    return options


if __name__ == "__main__":
    sys.exit(main())
