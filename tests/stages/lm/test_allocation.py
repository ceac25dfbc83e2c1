from __future__ import annotations

import subprocess
import sys

import pytest

from stages.lm.memory import keep_freed_memory

COUNT_FAULTS = """
import resource
import torch
from stages.lm.memory import keep_freed_memory

def count():
    counts = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(8):
            torch.ones(12 * 2**20)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return counts[1]

print(count(), keep_freed_memory("cpu"), count(), sep="\\n")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library of Linux")
def test_a_freed_buffer_is_the_next_one_and_a_gpu_has_an_allocator_of_its_own() -> None:
    """By the pages that the kernel has to make for buffers that were all there once."""
    command = [sys.executable, "-c", COUNT_FAULTS]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    given_back, line, kept = found.stdout.splitlines()
    if "cannot be told" in line:
        pytest.skip(line)
    assert "kept for the next batch" in line
    # Huge pages make 96 of 8 × 48 MiB, small ones 98,304.
    assert int(given_back) > 90
    assert int(kept) < int(given_back) / 4
    assert "torch's own" in keep_freed_memory("cuda:0")
