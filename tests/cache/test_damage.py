"""Every single damage to every file of a small cache: verification and readers must name each."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
from store_worker import ATTACHMENTS, SMALL, make_columns, make_manifest
from store_worker import read_everything as read_all

from cache.directory import Cache
from cache.errors import CacheError
from cache.opening import create_or_open
from cache.verification import verify_cache


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache of the same layout and another fingerprint, with other rows and attachments."""
    attachments = {name: data[::-1] for name, data in ATTACHMENTS.items()}
    manifest = make_manifest(**SMALL, seed=1)
    cache = create_or_open(tmp_path_factory.mktemp("other"), manifest, lambda kept: attachments)
    while (claim := cache.claim_next()) is not None:
        with claim:
            columns = make_columns(cache, claim.shard)
            cache.commit(claim, {name: values + 1 for name, values in columns.items()}, 0.5)
    return cache


@dataclass(frozen=True)
class Damage:
    """One file, or with ``partner`` two, and what is done to it."""

    file: str
    how: str
    number: int = 0
    partner: str = ""

    def do(self, root: Path, other: Path) -> None:
        path = root / self.file
        data = bytearray(path.read_bytes())
        path.unlink()
        match self.how:
            case "flip" | "invert":
                data[self.number] ^= 0xFF if self.how == "invert" else 1 << self.number * 5 % 8
                path.write_bytes(data)
            case "cut":
                path.write_bytes(data[: self.number])
            case "lengthen":
                path.write_bytes(data + b"\0")
            case "swap":
                (root / self.partner).rename(path)
                (root / self.partner).write_bytes(data)
            case "foreign":
                path.write_bytes((other / self.file).read_bytes())
            case "directory":
                path.mkdir()
            case "link":
                path.symlink_to("nowhere")


def files_of(cache: Cache) -> list[str]:
    return sorted(path for path, _ in cache.files.walk() if not path.startswith("claims/"))


def byte_by_byte(cache: Cache) -> list[Damage]:
    return [
        Damage(file, how, number)
        for file in files_of(cache)
        for number in range((cache.place.path / file).stat().st_size)
        for how in ("flip", "invert", "cut")
    ]


def as_a_whole(cache: Cache, other: Cache) -> Iterator[Damage]:
    files, root = files_of(cache), cache.place.path
    for file in files:
        for how in ("delete", "directory", "link", "lengthen"):
            yield Damage(file, how)
        foreign = other.place.path / file
        if foreign.read_bytes() != (root / file).read_bytes():
            yield Damage(file, "foreign")
    for one, two in combinations(files, 2):
        if (root / one).read_bytes() != (root / two).read_bytes():
            yield Damage(one, "swap", partner=two)


def is_named(file: str, named: set[str]) -> bool:
    """Without a sound manifest no file can be judged, without its record none of a shard's."""
    match = re.fullmatch(r"rows/\w+/c/(\d)(/0)?", file)
    return bool({file, "manifest.json", f"commits/00000{match[1]}.json" if match else ""} & named)


def check_all(cases: list[Damage], mine: Cache, other: Cache) -> None:
    root, whole = mine.place.path, mine.place.path.with_suffix(".whole")
    shutil.copytree(root, whole)
    unseen = []
    for case in cases:
        case.do(root, other.place.path)
        report = verify_cache(root)
        named = {fault.file for fault in report.faults}
        if case.how == "delete" and case.file.startswith("commits/"):
            told = not named and report.committed == mine.shards - 1
        else:
            told = all(is_named(file, named) for file in (case.file, case.partner) if file)
        try:
            read_all(root, mine.fingerprint)
            unseen.append(("reader", case))
        except CacheError:
            pass
        if not told:
            unseen.append(("verification", case))
        for file in filter(None, (case.file, case.partner)):
            if (root / file).is_dir():
                (root / file).rmdir()
            (root / file).unlink(missing_ok=True)
            shutil.copy(whole / file, root / file)
    assert unseen == []
    assert verify_cache(root).faults == ()
    read_all(root, mine.fingerprint)


@pytest.mark.parametrize("step", [181, pytest.param(1, marks=pytest.mark.slow)])
def test_every_damage_to_every_byte_is_seen(mine: Cache, other: Cache, step: int) -> None:
    """The run that is always made takes every so manieth; all of them take minutes."""
    cases = byte_by_byte(mine)
    assert len(cases) > 30_000
    check_all(cases[::step], mine, other)


def test_every_damage_to_a_whole_file_is_seen(mine: Cache, other: Cache) -> None:
    cases = list(as_a_whole(mine, other))
    assert len(cases) > 250
    check_all(cases, mine, other)
