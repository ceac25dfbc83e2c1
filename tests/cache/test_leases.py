import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lease_worker import LAPSED, go, in_memory, read_until, take, worker
from object_server import ask
from processes import wait_for
from store_worker import ATTACHMENTS, fill, make_cache, make_columns, make_manifest, tree

import cache.stores.leases
from cache.directory import Cache
from cache.errors import ClaimError, LostClaimError, StorageError
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores.bucket import open_bucket
from cache.stores.interface import Files
from cache.stores.leases import LEASE_SECONDS, LONGEST_SECONDS, Lease, LeasedClaims, Terms

WORKER = Path(__file__).with_name("lease_worker.py")


def claim_of(held: Cache, shard: int) -> Lease:
    """Wait for a shard's claim, asking without a pause."""
    found: list[Lease] = []

    def is_taken() -> bool:
        claims = LeasedClaims(f"{held.place}/claims")
        claim = claims.take_first([shard], lambda shard: False)
        found.extend([claim] if claim else [])
        return bool(found)

    wait_for(is_taken)
    return found[0]


def rows_of(files: Files) -> dict[str, bytes | None]:
    found = sorted(path for path, _ in files.walk() if path.startswith(("rows/", "attachments/")))
    return {path: files.read(path, 10**6) for path in found}


def jump(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let this machine's clock run on, as it does while the machine sleeps."""
    real = cache.stores.leases.boot_time
    monkeypatch.setattr("cache.stores.leases.boot_time", lambda: real() + seconds)


def test_a_lease_is_renewed_and_outlives_its_length(s3: str) -> None:
    bucket = open_bucket(s3)
    claim = take(LeasedClaims(bucket, 1.0))
    assert claim is not None
    other = LeasedClaims(bucket)
    began = time.monotonic()
    seen: set[bytes] = set()

    def is_old() -> bool:
        found = bucket.get("000000.json", 1000)
        seen.add(found.data if found else b"")
        return time.monotonic() - began > 3.0 and len(seen) > 2 and len(other.live()) == 1

    wait_for(is_old)
    wait_for(lambda: claim.is_held_in(LeasedClaims(bucket)))
    claim.release()
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
    (claims,) = itertools.islice(in_memory(), 1)
    claim = take(claims)
    assert claim is not None

    def refuse(path: str, data: bytes, version: Any) -> None:
        raise StorageError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(claims.bucket, "put", refuse)
        assert claim.is_held_in(claims)
        jump(patch, 55)
        assert not claim.is_held_in(claims)
    assert claim.is_held_in(claims)
    claim.release()


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
    claim = take(held)
    assert claim is not None
    ask(object_server, "_server/")
    for _ in range(50):
        assert take(waits) is None
    asked = [line for line in ask(object_server, "_server/").splitlines() if s3[5:] in line]
    assert len(asked) < 10
    claim.release()


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"[]", b"[" * 4000, b"x" * 10**5, b'{"seconds": NaN, "pid": "x", "host": 1}']
    + [b'{"seconds": %s, "pid": %s, "host": "\\u001b[2J"}' % (number, number)
       for number in (b"1e999", b"9" * 2000, b"-1")],
)  # fmt: skip
def test_a_lease_with_anything_in_it_is_a_lease_that_lapses(content: bytes) -> None:
    (claims,) = itertools.islice(in_memory(), 1)
    claims.bucket.put("000000.json", content, "create")
    (live,) = claims.live()
    assert (live.shard, live.host, live.pid) in [(0, "", 0), (0, "", -1)]
    assert take(claims) is None
    assert Terms.read(content).seconds in (LEASE_SECONDS, LONGEST_SECONDS)


def test_a_killed_workers_shard_is_free_when_its_lease_has_lapsed(s3: str, tmp_path: Path) -> None:
    with worker(WORKER, 2, "-", s3, 0, 2) as orphan:
        go(orphan)
        read_until(orphan, "hanging")
        held = make_cache(s3)
        wait_for(lambda: [live.pid for live in held.live_claims()] == [orphan.pid])
        with worker(WORKER, 12, "-", s3, 0) as other:
            go(other)
            read_until(other, "3")
            orphan.kill()
            assert other.wait(120) == 0
    assert held.is_complete
    assert held.live_claims() == []
    alone = make_cache(tmp_path)
    fill(alone)
    assert rows_of(held.files) == tree(alone.place.path)
    for shard in range(held.shards):
        CacheReader(held).read_shard(shard)


@pytest.mark.parametrize(
    ("part", "wakes"),
    [
        ("create rows/logits/c/0", "before"),
        ("create rows/logits/c/0", "after"),
        ("replace rows/logits/c/0", "after"),
        ("create commits/", "after"),
    ],
)
def test_who_wakes_up_in_a_write_leaves_its_successors_shard_as_it_is(
    s3: str, part: str, wakes: str
) -> None:
    held = make_cache(s3)
    if part.startswith("replace"):
        held.files.write({"rows/logits/c/0/0": b"somebody's who was killed"})
    with worker(WORKER, 0.5, part, s3, 0) as sleeper:
        go(sleeper)
        read_until(sleeper, "stopping")
        wait_for(lambda: os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOHANG) is not None)
        # Rows that can be told from the sleeper's, as another kind of device might give them.
        columns = make_columns(held, 0)
        columns["logits"] += np.float32(1)
        with claim_of(held, 0) as claim:
            if wakes == "after":
                held.commit(claim, columns, 1.0)
            sleeper.send_signal(signal.SIGCONT)
            _, err = sleeper.communicate(timeout=60)
            if wakes == "before":
                assert held.committed() == []
                held.commit(claim, columns, 1.0)
    assert sleeper.returncode != 0
    assert "ClaimError: " in err.splitlines()[-1]
    assert held.committed() == [0]
    found = CacheReader(held, partial=True).read_shard(0)
    assert (found["logits"] == columns["logits"]).all()


def test_a_creator_that_lost_its_right_publishes_nothing(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attachments() -> dict[str, bytes]:
        bucket = open_bucket(f"{s3}/{make_manifest().directory}/claims")
        bucket.put("creator.json", json.dumps(vars(LAPSED)).encode(), "overwrite")
        jump(monkeypatch, 3600)
        return ATTACHMENTS

    with pytest.raises(ClaimError, match="was not created"):
        create_or_open(s3, make_manifest(), attachments)
    wait_for(lambda: make_cache(s3).committed() == [])
