"""Leases that several ask for at once."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_worker import LAPSED, in_memory, take
from obstore.store import MemoryStore
from processes import wait_for

from cache.errors import ClaimError
from cache.stores.bucket import Bucket, Found
from cache.stores.leases import Lease, LeasedClaims


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

    def put(self, path: str, data: bytes, mode: Any) -> Any:
        if mode == "create":
            self._step()
        return super().put(path, data, mode)

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


def test_a_lapsed_lease_is_taken_over_by_one() -> None:
    claims = list(itertools.islice(in_memory(), 8))
    claims[0].bucket.put("000000.json", json.dumps(vars(LAPSED)).encode(), "create")
    wait_for(lambda: claims[0].live() == [])
    won: list[Lease | None] = []
    at_once(*(partial(try_once, mine, won) for mine in claims))
    (winner,) = [claim for claim in won if claim is not None]
    assert winner.is_held_in(claims[0])
    winner.release()


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
