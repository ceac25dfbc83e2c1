"""Writers of a small cache, in processes of their own; as a script, one with short leases.

Arguments: SECONDS PART and those of store_worker.  Leases last SECONDS.  The first time that it is
about to put an object whose path holds PART, on condition that it is new or still what it was, it
says "stopping" and stops, as a suspended machine does; "-" for never.
"""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import store_worker
from obstore.store import MemoryStore

import cache.stores.leases
from cache.stores.bucket import Bucket
from cache.stores.leases import Lease, LeasedClaims, Terms

PATH = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])

LAPSED = Terms("somebody", "elsewhere", 1, 0.0)


def in_memory(seconds: float = 60.0) -> Iterator[LeasedClaims]:
    """Claims as any number of processes have them."""
    store = MemoryStore()
    for _ in itertools.count():
        yield LeasedClaims(Bucket("s3://memory/here/claims", lambda seconds: store), seconds)


def take(claims: LeasedClaims, shards: int = 1, done: tuple[int, ...] = ()) -> Lease | None:
    return claims.take_first(range(shards), lambda shard: shard in done)


@contextmanager
def worker(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run Python with some arguments, killed at the end."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": PATH},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    """Let a writer begin that waits for a line."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found == line + "\n":
            return
    raise AssertionError(f"ended before {line}: {process.communicate()[1]}")


def main() -> None:
    seconds, part = sys.argv[1:3]
    sys.argv[1:3] = []
    cache.stores.leases.LEASE_SECONDS = float(seconds)
    put = obstore.put

    def stop_and_put(store: Any, path: str, *arguments: Any, **options: Any) -> Any:
        nonlocal part
        kind = "create" if options["mode"] == "create" else "replace"
        if part in f"{kind} {path}":
            part = "-never-"
            print("stopping", flush=True)  # noqa: T201
            os.kill(os.getpid(), signal.SIGSTOP)
        return put(store, path, *arguments, **options)

    obstore.put = stop_and_put
    store_worker.main()


if __name__ == "__main__":
    main()
