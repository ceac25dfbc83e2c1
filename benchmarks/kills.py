"""What killing costs: ``python -m benchmarks.kills``, which writes ``benchmarks/kills.md``.

A cache is filled while its writers are killed (SIGKILL) again and again at random instants and
started anew, until it is complete; then it is compared, byte by byte, with one that was filled
without interruption.  Any difference ends the run with an error.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.supervisor import MOMENTS, Plan, Tally
from benchmarks.survival import Teachers, survive_contention, survive_repro

INTRODUCTION = """\
Written by `python -m benchmarks.kills`.  The columns in the middle say what a killed writer was
doing, as its claim and its files tell.  A row that was lost, twice or different would have ended
the run with an error, so a line stands here only where there was none.
"""


def tabulate(name: str, tallies: list[Tally], shards: int, note: str = "") -> str:
    """Return one line of the table, of one run or of several alike."""
    kills = sum(tally.kills for tally in tallies)
    found = sum((tally.moments for tally in tallies), Counter())
    moments = [note] if note else [str(found[moment]) for moment in MOMENTS]
    cells = (
        name,
        tallies[0].plan.workers,
        f"{len(tallies)} × {shards}" if len(tallies) > 1 else shards,
        kills,
        sum(len(tally.logs) for tally in tallies),
        *moments,
        *[""] * (len(MOMENTS) - len(moments)),
        f"{sum(tally.seconds for tally in tallies):.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Run everything, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.kills")
    parser.add_argument("--kills", type=int, default=300, help="of each kind that is forked")
    options = parser.parse_args()
    # Before torch is imported; and what two processes compute is compared bit by bit.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    kills, few = options.kills, max(1, options.kills // 15)
    shards = 3 * kills
    heads = ("writer", "at once", "shards", "killed", "started", *MOMENTS, "seconds")
    lines = [INTRODUCTION, f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teachers = Teachers(folder, shards)
        for label, plan, fresh in (
            ("teacher, forked", Plan(kills), False),
            ("teachers, forked", Plan(kills, workers=4), False),
            ("`pipeline teacher`", Plan(few), True),
        ):
            tally = teachers.survive(plan, label.replace("`", ""), fresh)
            lines.append(tabulate(label, [tally], shards))
            print(lines[-1], flush=True)
        tally, orphans = survive_repro(teachers, Plan(few))
        lines.append(tabulate("`dvc repro`", [tally], shards, f"{orphans} orphans"))
        print(lines[-1], flush=True)
        tallies = []
        for seed in range(few // 2):
            (folder / f"contention{seed}").mkdir()
            tallies.append(survive_contention(folder / f"contention{seed}", Plan(30, 8, seed), 200))
        lines.append(tabulate("writers without a model", tallies, 200))
        print(lines[-1], flush=True)
    if options.kills == parser.get_default("kills"):
        Path("benchmarks/kills.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
