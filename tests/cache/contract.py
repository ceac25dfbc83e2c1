"""What a user does with a small cache, and what must hold whatever happened to it before."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from faulty_files import new_place
from store_worker import ATTACHMENTS, make_columns

from cache.directory import Cache
from cache.format.layout import Column, Layout
from cache.format.manifest import Manifest
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores.interface import Claim
from cache.stores.places import Place
from cache.verification import repair_cache, verify_cache

COLUMNS = {
    "seed": Column("uint64"),
    "tokens": Column("int32", (5,), fill=-1, compressed=True),
}
LOCKS = {"claims/creator.lock", "claims/guard.lock"}


def small(shards: int) -> Manifest:
    """Full shards of 8 rows, and a last one whose only chunk is short."""
    return Manifest("small", {"model": "m"}, Layout(8 * shards - 5, 4, 8, COLUMNS))


def open_small(root: Place, manifest: Manifest) -> Cache:
    return create_or_open(root, manifest, lambda kept: ATTACHMENTS)


def commit(cache: Cache, claim: Claim, change: int = 0) -> None:
    """Commit the rows that belong there; changed ones as another kind of device might give them."""
    columns = make_columns(cache, claim.shard)
    changed = {name: columns[name] + columns[name].dtype.type(change) for name in COLUMNS}
    cache.commit(claim, changed, 0.5)


def read(cache: Cache, partial: bool = False) -> tuple[int, ...]:
    """Read as a training does, and hold it against what was committed; returns the shards."""
    reader = CacheReader(cache, partial)
    for shard in reader.shards:
        expected = make_columns(cache, shard)
        for name, values in reader.read_shard(shard).items():
            np.testing.assert_array_equal(values, expected[name], strict=True)
    for name, data in ATTACHMENTS.items():
        assert cache.read_attachment(name) == data
    return reader.shards


def run(root: Place, manifest: Manifest, committed: list[int] | None = None) -> list[int]:
    """The user's command, from creating the cache to reading it; returns the shards computed.

    Each is put into `committed` as soon as the user is told so.
    """
    cache = open_small(root, manifest)
    computed = []
    while (claim := cache.claim_next()) is not None:
        with claim:
            computed.append(claim.shard)
            commit(cache, claim)
            if committed is not None:
                committed.append(claim.shard)
    assert read(cache) == tuple(range(cache.shards))
    return computed


def damage(root: Place, manifest: Manifest) -> None:
    """Leave a cache with all kinds of damage, but none in its last shard."""
    run(root, manifest)
    files = (root / manifest.directory).open_files()
    files.write({"rows/tokens/c/0/0": b"", "rows/seed/zarr.json": b"{}"})
    files.remove("attachments/words.json")
    if manifest.layout.shards > 2:
        files.write({"commits/000001.json": b"{}"})


def mend(root: Place, manifest: Manifest) -> None:
    """What the error messages tell to do where something is damaged, until all is well."""
    open_small(root, manifest)
    # More than once, since only with a sound manifest can the rest be judged.
    while (report := verify_cache(root / manifest.directory)).faults:
        repair_cache(report)
        open_small(root, manifest)
    run(root, manifest)


def contents(root: Place, manifest: Manifest, prefix: str = "") -> dict[str, bytes]:
    """Every file whose bytes are a function of the settings, or those below a prefix."""
    files = (root / manifest.directory).open_files()
    prefixes = (prefix,) if prefix else ("rows/", "attachments/")
    found = {path: files.read(path, 2**20) for path, _ in files.walk() if path.startswith(prefixes)}
    return {path: data for path, data in found.items() if data is not None}


@functools.cache
def _uninterrupted(shards: int) -> dict[str, bytes]:
    root = new_place("store", Path("whole"))
    run(root, small(shards))
    return contents(root, small(shards))


def expect_recovery(root: Place, manifest: Manifest) -> None:
    """The same command again must finish what is there, and compute nothing that was committed."""
    before = contents(root, manifest, "commits/")
    computed = run(root, manifest)
    after = contents(root, manifest, "commits/")
    assert before.items() <= after.items()
    new = [f"commits/{shard:06d}.json" for shard in computed]
    assert sorted(new) == sorted(after.keys() - before.keys())
    expect_whole(root, manifest)


def expect_whole(root: Place, manifest: Manifest) -> None:
    """Nothing may be there but what a run leaves that nothing befalls."""
    whole = _uninterrupted(manifest.layout.shards)
    assert contents(root, manifest).keys() == whole.keys()
    assert contents(root, manifest) == whole
    cache = open_small(root, manifest)
    assert cache.live_claims() == []
    paths = {path for path, _ in cache.files.walk()}
    assert {path for path in paths if path.startswith(("tmp/", "claims/"))} - LOCKS == set()
    assert verify_cache(cache.place).strays == ()
