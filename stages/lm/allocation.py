"""Memory between batches: kept for the next one, not given back to the system and asked for again.

A batch on a CPU allocates the same few buffers of megabytes in every layer.  The C library gives
each of them back when it is freed, so that the next one is made of new pages, which the kernel has
to clear one by one: a tenth of the time of a forward pass.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**30
"""Bytes of a buffer that is taken from the process's own memory, and of what is kept of it."""


def keep_freed_memory(device: str) -> str:
    """Have this process keep what it frees; what it takes at most is as before.

    Returns what was done or why not, for the log; a GPU's memory is torch's own affair.
    """
    if device != "cpu":
        return "freed memory: kept by torch's own allocator"
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    # Threads of their own would each get memory of their own; the model runs in the main thread.
    if set_option is None or not (
        set_option(M_MMAP_THRESHOLD, LARGEST) and set_option(M_TRIM_THRESHOLD, LARGEST)
    ):
        return "freed memory: left to the C library, which cannot be told to keep it"
    return "freed memory: kept for the next batch"
