import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_worker import go, read_until, worker
from object_server import ask
from obstore.store import MemoryStore
from processes import wait_for
from store_worker import ATTACHMENTS, fill, make_cache, make_columns, make_manifest, tree

import cache.stores.leases
from cache.directory import Cache
from cache.errors import ClaimError, LostClaimError, StorageError
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores.bucket import Bucket, Found, open_bucket
from cache.stores.interface import Files
from cache.stores.leases import LEASE_SECONDS, LONGEST_SECONDS, Lease, LeasedClaims, Terms

WORKER = Path(__file__).with_name("lease_worker.py")
LAPSED = Terms("somebody", "elsewhere", 1, 0.0)


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


def at_once(*tasks: Callable[[], None]) -> None:
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], None]) -> None:
        barrier.wait()
        task()

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rows_of(files: Files) -> dict[str, bytes | None]:
    found = sorted(path for path, _ in files.walk() if path.startswith(("rows/", "attachments/")))
    return {path: files.read(path, 10**6) for path in found}


def in_memory(seconds: float = 60.0) -> Iterator[LeasedClaims]:
    """Claims as any number of processes have them."""
    store = MemoryStore()
    for _ in itertools.count():
        yield LeasedClaims(Bucket("s3://memory/here/claims", lambda seconds: store), seconds)


def take(claims: LeasedClaims, shards: int = 1, done: tuple[int, ...] = ()) -> Lease | None:
    return claims.take_first(range(shards), lambda shard: shard in done)


def try_once(mine: LeasedClaims, won: list[Lease | None]) -> None:
    won.append(take(mine))


class Order:
    """Which of two threads makes the next call of a store, for as long as both make some."""

    def __init__(self, turns: list[bool]) -> None:
        self.is_on = False
        self._turns = turns
        self._ended: set[bool] = set()
        self._changed = threading.Condition()

    def step(self, me: bool) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_turn_of(me))
            del self._turns[:1]
            self._changed.notify_all()

    def follow(self, me: bool, task: Callable[[], None]) -> None:
        task()
        with self._changed:
            self._ended.add(me)
            self._changed.notify_all()

    def _is_turn_of(self, me: bool) -> bool:
        return not self._turns or self._turns[0] == me or bool(self._ended)


class Ordered(Bucket):
    def __init__(self, store: MemoryStore, order: Order, me: bool) -> None:
        super().__init__("s3://memory/here/claims", lambda seconds: store)
        self._order, self._me = order, me

    def get(self, path: str, limit: int) -> Found | None:
        self._step()
        return super().get(path, limit)

    def create(self, path: str, data: bytes) -> Any:
        self._step()
        return super().create(path, data)

    def walk(self, path: str = "") -> Iterator[tuple[str, int]]:
        self._step()
        return super().walk(path)

    def _step(self) -> None:
        if self._order.is_on:
            self._order.step(self._me)


def work(mine: LeasedClaims, held: ExitStack, having: list[str]) -> None:
    with suppress(ClaimError):
        claim = take(mine)
        assert claim is not None
        held.enter_context(claim)
        having.append("a shard")


def remove(mine: LeasedClaims, held: ExitStack, having: list[str]) -> None:
    with suppress(ClaimError):
        held.enter_context(mine.removing())
        having.append("the cache")


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


def test_a_lapsed_lease_is_taken_over_by_one() -> None:
    claims = list(itertools.islice(in_memory(), 8))
    claims[0].bucket.create("000000.json", json.dumps(vars(LAPSED)).encode())
    wait_for(lambda: claims[0].live() == [])
    won: list[Lease | None] = []
    at_once(*(partial(try_once, mine, won) for mine in claims))
    (winner,) = [claim for claim in won if claim is not None]
    assert winner.is_held_in(claims[0])
    winner.release()


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
        assert claims.bucket.replace("000000.json", b"", before.version) is None
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
    bucket.overwrite("000001.json", json.dumps(vars(LAPSED)).encode())
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
        patch.setattr(claims.bucket, "replace", refuse)
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
    claims.bucket.create("000000.json", content)
    (live,) = claims.live()
    assert (live.shard, live.host, live.pid) in [(0, "", 0), (0, "", -1)]
    assert take(claims) is None
    assert Terms.read(content).seconds in (LEASE_SECONDS, LONGEST_SECONDS)


def test_nobody_claims_while_the_cache_is_removed_and_the_other_way_round() -> None:
    one, other = itertools.islice(in_memory(), 2)
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


@given(st.lists(st.booleans(), max_size=20))
@settings(max_examples=150, deadline=None)
def test_of_a_worker_and_a_remover_at_once_at_most_one_has_its_way(turns: list[bool]) -> None:
    order, store = Order(turns), MemoryStore()
    one, other = (LeasedClaims(Ordered(store, order, me)) for me in (True, False))
    order.is_on = True
    having: list[str] = []
    # Nobody gives back what he has before both have tried.
    with ExitStack() as held:
        at_once(
            partial(order.follow, True, partial(work, one, held, having)),
            partial(order.follow, False, partial(remove, other, held, having)),
        )
        order.is_on = False
        assert len(having) < 2


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
        bucket.overwrite("creator.json", json.dumps(vars(LAPSED)).encode())
        jump(monkeypatch, 3600)
        return ATTACHMENTS

    with pytest.raises(ClaimError, match="was not created"):
        create_or_open(s3, make_manifest(), attachments)
    wait_for(lambda: make_cache(s3).committed() == [])
