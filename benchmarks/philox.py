"""``python -m benchmarks.philox [--integers N]``: random 32-bit integers a second, on one core.

The generator of :mod:`cache.draw`, in numpy and in torch, against numpy's own of the same name
(``numpy.random.Philox``, four 64-bit words, in C), in turns.  Times are processor time of the one
thread, the best of several, so that other processes matter little.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from benchmarks.common import format_head, format_row, timed
from cache.draw import mix_seeds, random_integers, random_integers_numpy

ROWS = 8
ROUNDS = 20
REFERENCE = "numpy.random.Philox"


def main() -> None:
    """Time all the ways in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.philox")
    parser.add_argument("--integers", type=int, default=1 << 20, help="integers in one draw")
    count = max(4, parser.parse_args().integers // ROWS)
    torch.set_num_threads(1)
    seeds, short = mix_seeds(0, 0, ROWS), mix_seeds(0, 0, ROWS * count // 256)
    reference = np.random.Generator(np.random.Philox())
    ways = {
        REFERENCE: lambda: reference.integers(0, 1 << 32, (ROWS, count), np.uint32),
        "in numpy": lambda: random_integers_numpy(seeds, count),
        "in numpy, rows of 256": lambda: random_integers_numpy(short, 256),
        "in torch, as on a GPU": lambda: random_integers(seeds, count),
    }
    times = [[timed(draw, time.thread_time) for draw in ways.values()] for _ in range(ROUNDS)]
    best = dict(zip(ways, map(min, zip(*times, strict=True)), strict=True))
    print(format_head(("generator", "million integers/s", "times numpy's own")))
    for name, seconds in best.items():
        rate = ROWS * count / seconds / 1e6
        print(format_row((name, f"{rate:.0f}", f"{best[REFERENCE] / seconds:.2f}")))


if __name__ == "__main__":
    main()
