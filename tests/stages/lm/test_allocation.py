from __future__ import annotations

import subprocess
import sys

import pytest

from stages.lm.memory import keep_freed_memory

COUNT_FAULTS = """
import resource, sys
import torch
from stages.lm.memory import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory("cpu"), file=sys.stderr)
def fill():
    for _ in range(8):
        torch.ones(12 * 2**20)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(mode: str) -> tuple[int, str]:
    """Pages that the kernel had to make for buffers that were all there once."""
    command = [sys.executable, "-c", COUNT_FAULTS, mode]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return int(found.stdout), found.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library of Linux")
def test_a_freed_buffer_is_the_next_one() -> None:
    kept, line = count_faults("keep")
    if "cannot be told" in line:
        pytest.skip(line)
    assert "kept for the next batch" in line
    given_back, _ = count_faults("leave")
    # Huge pages make 96 of 8 × 48 MiB, small ones 98,304.
    assert given_back > 90
    assert kept < given_back / 4


def test_a_gpu_has_an_allocator_of_its_own() -> None:
    assert "torch's own" in keep_freed_memory("cuda:0")
