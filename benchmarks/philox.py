"""python -m benchmarks.philox [--integers N]: random 32-bit integers a second, on one core.

One table: the generator of :mod:`cache.draw`, in numpy and in torch, against numpy's own of the
same name (``numpy.random.Philox``, four 64-bit words, in C), timed in turns in the same run.  Times
are processor time of the one thread, the best of several, so that other processes matter little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from cache.draw import mix_seeds, random_integers, random_integers_numpy

ROWS = 8
ROUNDS = 20


def main() -> None:
    """Time all the ways in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.philox")
    parser.add_argument("--integers", type=int, default=1 << 20, help="Integers in one draw.")
    count = max(4, parser.parse_args().integers // ROWS)
    torch.set_num_threads(1)
    seeds = mix_seeds(0, 0, ROWS)
    short = mix_seeds(0, 0, ROWS * count // 256)
    reference = np.random.Generator(np.random.Philox())
    ways: dict[str, Callable[[], object]] = {
        "numpy.random.Philox": lambda: reference.integers(0, 1 << 32, (ROWS, count), np.uint32),
        "in numpy": lambda: random_integers_numpy(seeds, count),
        "in numpy, rows of 256": lambda: random_integers_numpy(short, 256),
        "in torch, as on a GPU": lambda: random_integers(seeds, count),
    }
    best = best_times(ways)
    print(f"| {'generator':<21} | million integers/s | times numpy's own |")
    print(f"|{'-' * 23}|{'-' * 19}:|{'-' * 18}:|")
    for name, seconds in best.items():
        rate = ROWS * count / seconds / 1e6
        print(f"| {name:<21} | {rate:18.0f} | {best['numpy.random.Philox'] / seconds:17.2f} |")


def best_times(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return each way's least processor time in seconds, the ways taking turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, draw in ways.items():
            start = time.thread_time()
            draw()
            best[name] = min(best[name], time.thread_time() - start)
    return best


if __name__ == "__main__":
    main()
