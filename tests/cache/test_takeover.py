"""Workers whose cache or claim goes to somebody else at the worst moment."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from contract import commit, open_small, small
from faulty_disk import Death
from faulty_files import Fuse, behind, new_place
from lease_worker import in_memory, take
from store_worker import make_columns

import cache.stores.bucket
from cache.errors import ClaimError, StorageError
from cache.reader import CacheReader
from cache.removal import remove_cache
from cache.stores.leases import LEASE_SECONDS, RELEASED, LeasedClaims
from cache.verification import repair_cache, verify_cache


@pytest.mark.parametrize("kind", ["directory", "store"])
def test_nobody_claims_a_shard_of_a_cache_that_was_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    found = open_small(new_place(kind, tmp_path), small(2))
    monkeypatch.setattr(found, "committed", lambda: remove_cache(found.place) or [])
    with pytest.raises(StorageError, match="was removed"):
        found.claim_next()
    assert found.files.names("rows") == [] and found.live_claims() == []


class Interruption:
    """The store's library, with something happening before or after the ``at``-th request."""

    def __init__(self, at: int, when: str, event: Callable[[], None]) -> None:
        self.left, self._when, self._event = at, when, event

    def __getattr__(self, name: str) -> Any:
        def request(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            is_now = self.left == -1
            if is_now and self._when == "before":
                self._event()
            try:
                return getattr(obstore, name)(*arguments, **options)
            finally:
                if is_now and self._when == "after":
                    self._event()

        return request


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fate", ["killed before", "killed after", ""])
def test_who_was_suspended_at_any_request_and_replaced_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, fate: str, when: str
) -> None:
    """The successor's rows differ, as those of another kind of device do; it may be killed too."""
    for at in itertools.count():
        root = new_place("store", Path(str(at)))
        sleeper = open_small(root, small(2))
        with sleeper.claim_next() or pytest.fail("nothing to claim") as claim:
            told = []

            def replace(root: Any = root, claim: Any = claim, told: list[int] = told) -> None:
                claim._bucket.put(claim._path, RELEASED, "overwrite")
                claim._began -= 2 * LEASE_SECONDS
                fuse = Fuse()
                successor = open_small(behind(root, fuse), small(2))
                # Of its calls in a commit, which begin with a look for the record, the second.
                with suppress(Death), successor.claim_next() or pytest.fail("nothing") as mine:
                    fuse.arm(1 if fate else -1, fate)
                    commit(successor, mine, change=1)
                    told.append(mine.shard)

            interruption = Interruption(at, when, replace)
            monkeypatch.setattr(cache.stores.bucket, "obstore", interruption)
            with suppress(ClaimError):
                commit(sleeper, claim)
                told.append(claim.shard)
        monkeypatch.undo()
        if interruption.left >= 0:
            break
        assert len(told) == len(set(told))
        found = open_small(root, small(2))
        report = verify_cache(found.place)
        # No store can make a put depend on another object, so who is suspended right before the
        # record may still publish it on what a successor wrote who then died: damage, but named.
        assert not report.faults or (fate, when, {fault.shard for fault in report.faults}) == (
            "killed after",
            "before",
            {0},
        )
        repair_cache(report)
        while (claim := found.claim_next()) is not None:
            with claim:
                commit(found, claim, change=2)
        for shard in range(2):
            rows, plain = CacheReader(found).read_shard(shard), make_columns(found, shard)
            changes = {name: np.unique(rows[name] - plain[name]).tolist() for name in rows}
            assert changes["seed"] == changes["tokens"] and len(changes["seed"]) == 1
    assert at > 3


@pytest.mark.parametrize("first", [0, 1])
def test_of_a_worker_and_a_remover_at_once_at_most_one_has_its_way(
    monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """One of them does all that it wants to before any one of the other's requests."""
    for at in itertools.count():
        one, other = in_memory(2)
        having = []

        def work(one: LeasedClaims = one, having: list[str] = having) -> None:
            with suppress(ClaimError):
                held.enter_context(take(one) or pytest.fail("nothing to claim"))
                having.append("a shard")

        def remove(other: LeasedClaims = other, having: list[str] = having) -> None:
            with suppress(ClaimError):
                held.enter_context(other.removing())
                having.append("the cache")

        tasks = [work, remove]
        interruption = Interruption(at, "before", tasks[1 - first])
        # Nobody gives back what he has before both have tried.
        with ExitStack() as held, monkeypatch.context() as patch:
            patch.setattr(cache.stores.bucket, "obstore", interruption)
            tasks[first]()
            assert len(having) == 1
        if interruption.left >= 0:
            break
    assert at > 3
