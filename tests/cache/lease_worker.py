"""Claims in a store in memory, and writers in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obstore.store import MemoryStore

from cache.stores.bucket import Bucket
from cache.stores.leases import Lease, LeasedClaims, Terms

PATH = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])

LAPSED = Terms("somebody", "elsewhere", 1, 0.0)


def in_memory(count: int) -> Iterator[LeasedClaims]:
    """Claims as so many processes have them."""
    store = MemoryStore()
    for _ in range(count):
        yield LeasedClaims(Bucket("s3://memory/here/claims", lambda seconds: store))


def take(claims: LeasedClaims) -> Lease | None:
    return claims.take_first([0], lambda shard: False)


@contextmanager
def worker(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run Python with the modules of these tests, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found == line + "\n":
            return
    raise AssertionError(f"ended before {line}: {process.communicate()[1]}")
