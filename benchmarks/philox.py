"""python -m benchmarks.philox [--integers N]: random 32-bit integers a second, on one core.

One table: every way of :mod:`cache.draw` in torch against numpy's own generator of the same name
(``numpy.random.Philox``, four 64-bit words, in C), timed in turns in the same run.  Times are
processor time of the one thread, the best of several, so that another process beside it matters
little; compiling is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from cache.draw import (
    compiler_problem,
    describe_backend,
    mix_seeds,
    random_bits,
    random_integers_numpy,
)

ROWS = 8
ROUNDS = 20


def main() -> None:
    """Time all the ways in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.philox")
    parser.add_argument("--integers", type=int, default=1 << 20, help="integers a draw")
    count = max(4, parser.parse_args().integers // ROWS)
    torch.set_num_threads(1)
    seeds = mix_seeds(0, 0, ROWS)
    short = mix_seeds(0, 0, ROWS * count // 256)
    own = np.random.Generator(np.random.Philox())
    ways: dict[str, Callable[[], object]] = {
        "numpy's own Philox": lambda: own.integers(0, 1 << 32, size=(ROWS, count), dtype=np.uint32),
        "numpy blocks": lambda: random_integers_numpy(seeds, count),
        "numpy blocks, rows of 256": lambda: random_integers_numpy(short, 256),
        "torch eager": lambda: random_bits(seeds, count, backend="eager"),
    }
    problem = compiler_problem("cpu")
    if not problem:
        ways["torch.compile"] = lambda: random_bits(seeds, count, backend="compiled")
    best = best_times(ways)
    print(f"| {'implementation':<26} | million integers/s | times numpy's own |")
    print(f"|{'-' * 28}|{'-' * 19}:|{'-' * 18}:|")
    reference = best["numpy's own Philox"]
    for name, seconds in best.items():
        rate = ROWS * count / seconds / 1e6
        print(f"| {name:<26} | {rate:18.0f} | {reference / seconds:17.2f} |")
    if problem:
        print(f"| {'torch.compile':<26} | {'skipped':>18} | {'':17} | ({problem})")
    print(f"\n{describe_backend('cpu')}")


def best_times(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return each way's least processor time in seconds, the ways taking turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS + 1):  # the first is slower for all of them, and compiles
        for name, draw in ways.items():
            start = time.thread_time()
            draw()
            best[name] = min(best[name], time.thread_time() - start)
    return best


if __name__ == "__main__":
    main()
