import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from lease_worker import read_until, worker
from store_worker import ATTACHMENTS, fill, make_cache, make_columns

from cache.directory import Cache
from cache.errors import ClaimError, LostClaimError
from cache.opening import open_cache

HANGS = """
import sys, time
from store_worker import fill, make_cache
cache = make_cache(sys.argv[1])
fill(cache, 2)
claim = cache.claim_next()
print("hanging", flush=True)
time.sleep(600)
"""
CREATES = """
import sys, time, cache.stores.leases
from store_worker import *
cache.stores.leases.LEASE_SECONDS = 0.5
def attachments(kept):
    print("ready", flush=True)
    time.sleep(600)
create_or_open(sys.argv[1], make_manifest(), attachments)
"""


@pytest.fixture(params=["directory", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "directory":
        return tmp_path
    found: str = request.getfixturevalue("s3")
    return found


def test_an_orphan_keeps_its_claim_and_its_successor_works_around_it(tmp_path: Path) -> None:
    with worker(HANGS, tmp_path) as orphan:
        read_until(orphan, "hanging")
        cache = make_cache(tmp_path)
        fill(cache)
        assert cache.committed() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
        assert cache.claim_next() is None and not cache.is_complete
        (live,) = cache.live_claims()
        assert (live.shard, live.pid, live.host) == (2, orphan.pid, os.uname().nodename)
        orphan.kill()
        orphan.wait()
        assert cache.live_claims() == []
        fill(cache)
        assert cache.is_complete


def test_a_creator_killed_while_creating_is_replaced(root: Path | str) -> None:
    opened: list[Cache] = []
    with worker(CREATES, root) as creator:
        read_until(creator, "ready")
        waiting = threading.Thread(target=lambda: opened.append(make_cache(root)))
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        creator.kill()
        waiting.join(120)
    assert opened[0].read_attachment("table.bin") == ATTACHMENTS["table.bin"]


def test_claims_go_from_the_lowest_and_come_back(
    root: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make_cache(root), make_cache(root)
    fill(one, 1)
    first, second = one.claim_next(), other.claim_next()
    assert first is not None and second is not None
    assert (first.shard, second.shard) == (1, 2)
    live = one.live_claims()
    assert [(claim.shard, claim.pid, claim.host) for claim in live] == [
        (shard, os.getpid(), os.uname().nodename) for shard in (1, 2)
    ]
    with pytest.raises(LostClaimError, match="no claim on it"):
        make_cache(root, seed=1).commit(first, make_columns(one, 1), 1.0)
    first.release()
    first.release()
    with pytest.raises(LostClaimError, match="no claim on it"):
        one.commit(first, make_columns(one, 1), 1.0)
    with one.claim_next() or pytest.fail("nothing to claim") as again:
        assert again.shard == 1
    with pytest.raises(RuntimeError), one.claim_next() or pytest.fail("nothing to claim"):
        raise RuntimeError
    assert [claim.shard for claim in one.live_claims()] == [2]
    second.release()
    # Nor is a shard claimed that was finished since the committed ones were listed.
    monkeypatch.setattr(one, "committed", list)
    with one.claim_next() or pytest.fail("nothing to claim") as again:
        assert [again.shard] == [claim.shard for claim in one.live_claims()] == [1]


def test_asking_who_is_live_never_hides_a_free_shard(tmp_path: Path) -> None:
    """Four threads ask all the time; a lone worker must still never be told that none is free."""
    cache, stop = make_cache(tmp_path), threading.Event()

    def ask() -> None:
        mine = open_cache(cache.place.path)
        while not stop.is_set():
            mine.live_claims()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            with cache.claim_next() or pytest.fail("nothing to claim") as claim:
                assert claim.shard == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_lock_on_a_removed_file_shuts_nobody_out(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    with cache.claim_next() or pytest.fail("nothing to claim") as claim:
        (cache.place.path / "claims" / "000000.lock").unlink()
        with pytest.raises(LostClaimError, match="no claim on it"):
            cache.commit(claim, make_columns(cache, 0), 1.0)
        with cache.claim_next() or pytest.fail("nothing to claim") as other:
            assert other.shard == 0
            claim.release()
            assert [live.shard for live in cache.live_claims()] == [0]
            cache.commit(other, make_columns(cache, 0), 1.0)


def test_a_removed_cache_is_not_brought_back_by_a_release(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    with cache.claim_next() or pytest.fail("nothing to claim") as claim:
        shutil.rmtree(cache.place.path)
        with pytest.raises(ClaimError):
            cache.commit(claim, make_columns(cache, 0), 1.0)
    assert not cache.place.path.exists()


def test_nobody_waits_for_ever_for_a_stopped_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path)
    monkeypatch.setattr("cache.stores.claims.GUARD_SECONDS", 0.05)
    with (cache.place.path / "claims" / "guard.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ClaimError, match=r"guard\.lock"):
            cache.claim_next()
    with cache.claim_next() or pytest.fail("nothing to claim") as claim:
        assert claim.shard == 0


def test_a_forked_child_can_neither_use_nor_give_back_a_claim(root: Path | str) -> None:
    cache = make_cache(root)
    with cache.claim_next() or pytest.fail("nothing to claim") as claim:
        child = os.fork()
        if child == 0:
            try:
                claim.release()
                os._exit(0 if not claim.is_held_in(cache._claims) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert [live.shard for live in cache.live_claims()] == [0]
        cache.commit(claim, make_columns(cache, 0), 1.0)
    assert cache.committed() == [0]


def test_a_lock_file_with_anything_in_it_is_only_a_lock_file(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    with cache.claim_next() or pytest.fail("nothing to claim"):
        for content in (b"", b"\xff", b"[]", b'{"host": 1, "pid": "x"}', b"x" * 10**5):
            (cache.place.path / "claims" / "000000.lock").write_bytes(content)
            (live,) = cache.live_claims()
            assert (live.shard, live.host, live.pid) == (0, "", 0)
