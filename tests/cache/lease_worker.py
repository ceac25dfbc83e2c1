"""A writer of a small cache in an object store, whose leases are short and which stops by itself.

Arguments: SECONDS PART and those of store_worker.  The first time that it is about to put an object
whose path holds PART, on condition that it is new or still what it was, it says "stopping" and
stops, as a suspended machine does; "-" for never.
"""

import os
import signal
import sys
from typing import Any

import obstore
import store_worker

import cache.stores.leases


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
