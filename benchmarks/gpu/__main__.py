"""Everything that only a GPU can show: ``make gpu``, or ``python -m benchmarks.gpu``.

Whether a GPU answers as the CPU does, how near a teacher of Llama-2-7b's size comes to the
hardware's limit, how fast students train, and how long the main job takes.  Nothing is fetched or
installed.  The table is written after every row; the same command again, with the same device,
versions and sources, measures only what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import (
    NEEDS,
    OPTIONAL,
    PARTS,
    QUICK_SECONDS,
    Row,
    choose_rows,
    describe_missing,
    find_missing,
)
from benchmarks.gpu.table import DONE, FAILED, LEFT_OUT, Book
from benchmarks.gpu.worker import Found, Setting, Worker

ROOT = Path(__file__).parents[2]
PLACE = "benchmarks.gpu"
SOURCES = ("cache", "stages", "pipeline", "benchmarks/gpu", "tests/gpu")
LENT = ("subjects", "yardsticks", "stepping", "trial")
"""Modules of the other benchmarks that are used here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; return 1 where a row failed or nothing can be measured."""
    began = time.monotonic()
    options = parse_options(arguments)
    # Nothing is fetched, and a library that tries must not wait for an answer.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    parts, notes = options.only or list(PARTS), []
    for name in find_missing(list(OPTIONAL)):
        notes.append(f"\n{name} is not there: {OPTIONAL[name]}.")
        if name == "pytest":
            parts = [part for part in parts if part != "correctness"]
    if missing := describe_missing(parts):
        print(f"error: {missing}", file=sys.stderr)
        return 1
    from stages.devices import choose_device
    from stages.errors import SettingError

    try:
        device = choose_device(options.device).value
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    book = Book(options.out, describe_run(device, options.quick), notes)
    rows = choose_rows(parts, options.quick)
    left = [row for row in rows if not book.has(row.part, row.name)]
    if len(left) < len(rows):
        there = f"{len(rows) - len(left)} of {len(rows)} rows are in {book.file} already"
        print(f"continuing: {there}; without that file all are measured", flush=True)
    book.write()
    setting = Setting(device, options.quick, options.tests)
    good = measure_rows(left, setting, began + options.seconds, book.add)
    print(f"{options.out}: {time.monotonic() - began:.0f} s in all", flush=True)
    return 0 if good else 1


def measure_rows(
    rows: Sequence[Row], setting: Setting, ends: float, keep: Callable[[dict[str, Any]], None]
) -> bool:
    """Measure rows one by one, those of a part by one process as long as none fails.

    Args:
        rows: The rows.
        setting: How they are measured.
        ends: When all must have ended, on the monotonic clock.
        keep: Takes a record of each.

    Returns:
        Whether no row failed.
    """
    worker: Worker | None = None
    part, good = "", True
    try:
        for row in rows:
            began = time.monotonic()
            title, left = f"{row.part}: {row.name}", ends - began
            predicted = QUICK_SECONDS if setting.quick else row.seconds
            record = {"part": row.part, "name": row.name}
            if predicted > left:
                why = f"about {predicted:.0f} s, {max(0, left):.0f} s were left"
                print(f"{title}: left out: {why}", flush=True)
                keep(record | {"status": LEFT_OUT, "seconds": 0} | asdict(Found([], [], why)))
                continue
            print(f"{title}: about {predicted:.0f} s ...", flush=True)
            if worker is not None and part != row.part:
                worker.close()
                worker = None
            worker, part = worker or Worker(f"{PLACE}.{row.part}", setting), row.part
            # Neither beyond the end, nor so long that nothing is left for the others.
            found = worker.measure(row.name, left if setting.quick else min(left, row.limit))
            spent = time.monotonic() - began
            status = FAILED if found.why else DONE
            keep(record | {"status": status, "seconds": round(spent, 1)} | asdict(found))
            print(f"{title}: {status}, {spent:.1f} s {found.why}".rstrip(), flush=True)
            if found.why:
                # What a failure leaves of a device's memory and context is not known.
                worker.close()
                worker, good = None, False
    finally:
        if worker is not None:
            worker.close()
    return good


def describe_run(device: str, quick: bool) -> dict[str, Any]:
    """Return what figures depend on: device, versions and sources."""
    import torch

    cuda = torch.device(device).type == "cuda"
    files = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]
    files += [ROOT / "benchmarks" / f"{name}.py" for name in LENT]
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "sources": digest.hexdigest()[:12],
        "quick": quick,
    }


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.gpu",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="file for the table; the rows lie beside it in a .json  [benchmarks/gpu.md]",
    )
    parser.add_argument(
        "--only", choices=NEEDS, action="append", help="one part; may be given more than once"
    )
    parser.add_argument("--seconds", type=float, default=480, help="to take at most  [480]")
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:N, or cpu with --quick  [cuda]"
    )
    parser.add_argument("--quick", action="store_true", help="tiny models: figures mean nothing")
    parser.add_argument("--tests", default="", metavar="EXPRESSION", help="pytest's -k")
    options = parser.parse_args(arguments)
    if options.out is None and options.quick:
        parser.error("--quick needs --out: its figures are not to lie where real ones belong")
    options.out = options.out or Path("benchmarks/gpu.md")
    return options


if __name__ == "__main__":
    sys.exit(main())
