from __future__ import annotations

import functools
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract import damage, expect_recovery, expect_whole, mend, run, small
from faulty_disk import FAULTS, Disk
from power_cut import Directory, File, Image, Platter, restore

from cache.format.manifest import Manifest
from cache.removal import remove_cache
from cache.stores.places import LocalPlace

ROOT = "data/cache"
Hears = Callable[[Any], bool]


def all_of(node: object) -> bool:
    return True


class Cuts:
    """An operation on a disk whose power may fail after every single call.

    Attributes:
        images: What may be found then, each once.
        broken: What of it breaks the contract.
        committed: The shards that the user was told are committed.
    """

    def __init__(self, folder: Path, hears: Hears = all_of) -> None:
        self.folder = folder
        self.images: dict[frozenset[tuple[str, bytes]], Image] = {}
        self.broken: list[str] = []
        self.committed: list[int] = []
        self._platter = Platter(folder, hears)
        self._chance = random.Random(1)  # noqa: S311
        self._before = {fault for image in self._images() for fault in find_faults(image)}

    @property
    def root(self) -> LocalPlace:
        return LocalPlace(self.folder / ROOT)

    def callbacks(self, operation: Callable[[], object], is_cut: bool = True, at: int = -1) -> None:
        """Run an operation, with cuts after every call, or none; killed at one of its calls."""

        def told(kind: str, path: str, more: object) -> None:
            self._platter.note(kind, path, more)
            if is_cut and kind in ("write", "fsync", "link", "replace", "unlink", "mkdir", "rmdir"):
                self.cut(f"{kind} {path}")

        disk = Disk(self.folder, at, "killed")
        disk.listener = told
        with disk.in_force():
            operation()
        # The model is of no use unless it was told all that happened to the disk.
        assert self._platter.now() == found_in(self.folder)

    def cut(self, after: str) -> None:
        for image in self._images():
            lost = set(self.committed) - shards_of(image)
            found = {f"shard {shard}" for shard in lost}
            key = frozenset(image.items())
            if key not in self.images:
                self.images[key] = image
                found |= set(find_faults(image)) - self._before
            self.broken += [f"{fault}, after {after}" for fault in sorted(found)]

    def _images(self) -> Iterator[Image]:
        return self._platter.images(self._chance)


def found_in(folder: Path) -> Image:
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {
        f"{name}/" if path.is_dir() else name: b"" if path.is_dir() else path.read_bytes()
        for name, path in paths.items()
        if "/claims/" not in name
    }


def shards_of(image: Image) -> set[int]:
    found = (re.search(r"/commits/([0-9]{6})\.json$", path) for path in image)
    return {int(match[1]) for match in found if match}


def find_faults(image: Image) -> Iterator[str]:
    """Say what the commit records promise, and the manifest where there are any, that is not so."""
    records = [path for path in image if "/commits/" in path and path.endswith(".json")]
    cache = records[0].partition("commits/")[0] if records else ""
    for path in [f"{cache}manifest.json", *records] if records else []:
        try:
            files = promises(image[path])
        except (KeyError, ValueError):
            yield f"{path} itself"
            continue
        for name, (size, digest) in files.items():
            data = image.get(cache + name)
            if data is None or (len(data), sha256(data)) != (size, digest):
                yield f"{path} without {name}"


@functools.cache
def promises(data: bytes) -> dict[str, tuple[int, str]]:
    files = json.loads(data).get("files", {})
    return {path: (info["size"], info["sha256"]) for path, info in files.items()}


@functools.cache
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fill(cuts: Cuts, manifest: Manifest) -> None:
    run(cuts.root, manifest, cuts.committed)


def remove(cuts: Cuts, manifest: Manifest) -> None:
    remove_cache(cuts.root / manifest.directory)


def repair(cuts: Cuts, manifest: Manifest) -> None:
    cuts.committed = [manifest.layout.shards - 1]
    mend(cuts.root, manifest)


Operation = Callable[[Cuts, Manifest], None]


def carry_out(
    folder: Path, operation: Operation, manifest: Manifest, hears: Hears = all_of
) -> Cuts:
    disk = folder / "disk"
    disk.mkdir()
    with Disk(disk).in_force():
        if operation is repair:
            damage(LocalPlace(disk / ROOT), manifest)
        elif operation is remove:
            run(LocalPlace(disk / ROOT), manifest)
    cuts = Cuts(disk, hears)
    cuts.callbacks(functools.partial(operation, cuts, manifest))
    return cuts


@pytest.mark.parametrize(
    ("shards", "share"), [(2, 20), pytest.param(3, 10**6, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("operation", [fill, repair, remove])
def test_whenever_the_power_fails_what_was_committed_is_there_and_the_rest_is_made_again(
    tmp_path: Path, operation: Operation, shards: int, share: int
) -> None:
    manifest, again = small(shards), tmp_path / "again"
    cuts = carry_out(tmp_path, operation, manifest)
    assert cuts.broken == []
    images = [*cuts.images.values()]
    assert len(images) > 50
    for image in images[:: max(1, len(images) // share)]:
        restore(image, again)
        root = LocalPlace(again / ROOT)
        with Disk(again).in_force():
            if operation is repair:
                mend(root, manifest)
                expect_whole(root, manifest)
            else:
                expect_recovery(root, manifest)
        shutil.rmtree(again)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_what_a_killed_process_did_not_sync_its_successor_does(tmp_path: Path, step: int) -> None:
    manifest = small(2)
    (tmp_path / "plain").mkdir()
    plain = Disk(tmp_path / "plain")
    with plain.in_force():
        run(LocalPlace(tmp_path / "plain" / ROOT), manifest)
    for at, (kind, path) in enumerate(plain.log):
        if kind in FAULTS["killed"] and (at < 12 or at % step == 0):
            disk = tmp_path / "disk"
            disk.mkdir()
            cuts = Cuts(disk)
            for killed_at in (at, -1):
                cuts.callbacks(functools.partial(fill, cuts, manifest), False, killed_at)
            cuts.cut("all was done")
            assert cuts.broken == [], f"killed at {kind} {path}"
            shutil.rmtree(disk)


@pytest.mark.parametrize("deaf", [File, Directory])
def test_without_syncs_of_files_or_of_directories_the_contract_breaks(
    tmp_path: Path, deaf: type
) -> None:
    cuts = carry_out(tmp_path, fill, small(2), lambda node: not isinstance(node, deaf))
    assert cuts.broken
