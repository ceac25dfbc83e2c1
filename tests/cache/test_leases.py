"""Claims on shards in an object store, renewed, lapsed, and asked for by several at once."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from lease_worker import LAPSED, in_memory, read_until, take, worker
from object_server import ask
from processes import wait_for
from store_worker import ATTACHMENTS, make_cache, make_columns, make_manifest

import cache.stores.leases
from cache.errors import ClaimError, LostClaimError, StorageError
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores.bucket import open_bucket
from cache.stores.leases import LEASE_SECONDS, LONGEST_SECONDS, Lease, LeasedClaims, Terms


def jump(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let this machine's clock run on, as it does while the machine sleeps."""
    real = cache.stores.leases.boot_time
    monkeypatch.setattr("cache.stores.leases.boot_time", lambda: real() + seconds)


def test_a_lease_is_renewed_and_outlives_its_length(s3: str) -> None:
    bucket = open_bucket(s3)
    other = LeasedClaims(bucket)
    with take(LeasedClaims(bucket, 1.0)) or pytest.fail("nothing to claim") as claim:
        began = time.monotonic()
        seen: set[bytes] = set()

        def is_old() -> bool:
            found = bucket.get("000000.json", 1000)
            seen.add(found.data if found else b"")
            return time.monotonic() - began > 3.0 and len(seen) > 2 and len(other.live()) == 1

        wait_for(is_old)
        wait_for(lambda: claim.is_held_in(LeasedClaims(bucket)))
    assert other.live() == []


def test_a_renewed_lease_is_not_taken_over_by_who_saw_it_before(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal bytes have equal tags in S3, so a renewal must not look like what it renews."""
    claims = LeasedClaims(s3)
    with take(claims) or pytest.fail("nothing to claim") as held:
        before = claims.bucket.get("000000.json", 1000)
        assert before is not None
        jump(monkeypatch, 55)
        assert held.is_held_in(claims)
        assert claims.bucket.put("000000.json", b"", before.version) is None
        assert held.is_held_in(claims)


def test_who_was_suspended_alone_goes_on_and_who_was_replaced_does_not(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = make_cache(s3)
    first, second = held.claim_next(), held.claim_next()
    assert first is not None and second is not None
    jump(monkeypatch, 3600)
    held.commit(first, make_columns(held, 0), 1.0)
    first.release()
    bucket = open_bucket(f"{held.place}/claims")
    bucket.put("000001.json", json.dumps(vars(LAPSED)).encode(), "overwrite")
    jump(monkeypatch, 3600)
    with pytest.raises(LostClaimError, match="no claim on it"):
        held.commit(second, make_columns(held, 1), 1.0)
    second.release()
    found = bucket.get("000001.json", 1000)
    assert found is not None
    assert Terms.read(found.data).owner == "somebody"
    assert held.committed() == [0]


def test_who_cannot_reach_the_store_is_not_certain_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (claims,) = in_memory(1)

    def refuse(path: str, data: bytes, version: Any) -> None:
        raise StorageError("not now")

    with take(claims) or pytest.fail("nothing to claim") as claim:
        with monkeypatch.context() as patch:
            patch.setattr(claims.bucket, "put", refuse)
            assert claim.is_held_in(claims)
            jump(patch, 55)
            assert not claim.is_held_in(claims)
        assert claim.is_held_in(claims)


def test_a_renewal_whose_answer_was_lost_counts(
    s3: str, object_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = LeasedClaims(f"{s3}/claims")
    with take(claims) or pytest.fail("nothing to claim") as claim:
        ask(object_server, "_server/000000.json", "PUT")
        jump(monkeypatch, 55)
        assert claim.is_held_in(claims)


def test_who_waits_asks_seldom(s3: str, object_server: str) -> None:
    held, waits = LeasedClaims(s3, LONGEST_SECONDS), LeasedClaims(s3, LONGEST_SECONDS)
    with take(held) or pytest.fail("nothing to claim"):
        ask(object_server, "_server/")
        for _ in range(50):
            assert take(waits) is None
        asked = [line for line in ask(object_server, "_server/").splitlines() if s3[5:] in line]
        assert len(asked) < 10


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"[]", b"[" * 4000, b"x" * 10**5, b'{"seconds": NaN, "pid": "x", "host": 1}']
    + [b'{"seconds": %s, "pid": %s, "host": "\\u001b[2J"}' % (number, number)
       for number in (b"1e999", b"9" * 2000, b"-1")],
)  # fmt: skip
def test_a_lease_with_anything_in_it_is_a_lease_that_lapses(content: bytes) -> None:
    (claims,) = in_memory(1)
    claims.bucket.put("000000.json", content, "create")
    (live,) = claims.live()
    assert (live.shard, live.host, live.pid) in [(0, "", 0), (0, "", -1)]
    assert take(claims) is None
    assert Terms.read(content).seconds in (LEASE_SECONDS, LONGEST_SECONDS)


SLEEPS = """
import os, signal, sys, obstore, cache.stores.leases
from store_worker import fill, make_cache
cache.stores.leases.LEASE_SECONDS = 0.5
put = obstore.put
def sleep_and_put(store, path, *arguments, **options):
    if path == "rows/logits/c/0/0" and options["mode"] != "create":
        obstore.put = put
        print("stopping", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return put(store, path, *arguments, **options)
obstore.put = sleep_and_put
fill(make_cache(sys.argv[1]))
"""


def test_who_wakes_up_in_a_write_leaves_its_successors_shard_as_it_is(s3: str) -> None:
    held = make_cache(s3)
    held.files.write({"rows/logits/c/0/0": b"somebody's who was killed"})
    with worker(SLEEPS, s3) as sleeper:
        read_until(sleeper, "stopping")
        wait_for(lambda: os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOHANG) is not None)
        # Rows that can be told from the sleeper's, as another kind of device might give them.
        columns = make_columns(held, 0)
        columns["logits"] += np.float32(1)
        claims = LeasedClaims(f"{held.place}/claims")
        wait_for(lambda: claims.live() == [])
        with take(claims) or pytest.fail("nothing to claim") as claim:
            held.commit(claim, columns, 1.0)
            sleeper.send_signal(signal.SIGCONT)
            _, err = sleeper.communicate(timeout=60)
    assert sleeper.returncode != 0
    assert "ClaimError: " in err.splitlines()[-1]
    assert held.committed() == [0]
    found = CacheReader(held, partial=True).read_shard(0)
    assert (found["logits"] == columns["logits"]).all()


def test_a_creator_that_lost_its_right_publishes_nothing(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attachments(kept: object) -> dict[str, bytes]:
        bucket = open_bucket(f"{s3}/{make_manifest().directory}/claims")
        bucket.put("creator.json", json.dumps(vars(LAPSED)).encode(), "overwrite")
        jump(monkeypatch, 3600)
        return ATTACHMENTS

    with pytest.raises(ClaimError, match="was not created"):
        create_or_open(s3, make_manifest(), attachments)
    wait_for(lambda: make_cache(s3).committed() == [])


def test_a_lapsed_lease_is_taken_over_by_one() -> None:
    claims = list(in_memory(8))
    claims[0].bucket.put("000000.json", json.dumps(vars(LAPSED)).encode(), "create")
    wait_for(lambda: claims[0].live() == [])
    barrier = threading.Barrier(len(claims))

    def take_at_once(mine: LeasedClaims) -> Lease | None:
        barrier.wait()
        return take(mine)

    with ThreadPoolExecutor(len(claims)) as pool:
        (winner,) = [claim for claim in pool.map(take_at_once, claims) if claim is not None]
    assert winner.is_held_in(claims[0])
    winner.release()


def test_nobody_claims_while_the_cache_is_removed_and_the_other_way_round() -> None:
    one, other = in_memory(2)
    with take(one) or pytest.fail("nothing to claim") as claim:
        with pytest.raises(ClaimError, match=rf"process {os.getpid()} on .*shards: 0\)"):
            other.removing().__enter__()
        assert claim.is_held_in(one)
    with one.removing():
        with pytest.raises(ClaimError, match="being removed"):
            take(other)
        with pytest.raises(ClaimError, match="being removed"):
            other.removing().__enter__()
        assert other.live() == []
    with take(other) or pytest.fail("nothing to claim"):
        pass
