"""Every single damage to every file of a small cache: verification and readers must name each."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
from store_worker import ATTACHMENTS, SMALL, fill, make_cache, make_columns, make_manifest, tree
from store_worker import read_everything as read_all

from cache.directory import Cache
from cache.errors import CacheError, ForeignError
from cache.opening import create_or_open
from cache.verification import repair_cache, verify_cache


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache of the same layout and another fingerprint, with other rows and attachments."""
    attachments = {name: data[::-1] for name, data in ATTACHMENTS.items()}
    manifest = make_manifest(**SMALL, seed=1)
    cache = create_or_open(tmp_path_factory.mktemp("other"), manifest, lambda: attachments)
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
        data = path.read_bytes()
        if self.how in ("flip", "invert", "cut", "lengthen"):
            path.write_bytes(self.change(data))
            return
        path.unlink()
        if self.how == "swap":
            (root / self.partner).rename(path)
            (root / self.partner).write_bytes(data)
        elif self.how == "foreign":
            path.write_bytes((other / self.file).read_bytes())
        elif self.how == "directory":
            path.mkdir()
        elif self.how == "link":
            path.symlink_to("nowhere")

    def change(self, data: bytes) -> bytes:
        if self.how == "cut":
            return data[: self.number]
        if self.how == "lengthen":
            return data + b"\0"
        changed = bytearray(data)
        changed[self.number] ^= 0xFF if self.how == "invert" else 1 << (self.number * 5 + 3) % 8
        return bytes(changed)

    @property
    def uncommits(self) -> bool:
        return self.file.startswith("commits/") and self.how == "delete"


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
        if case.uncommits:
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


@pytest.mark.slow
def test_repair_and_the_teacher_bring_back_every_byte(mine: Cache, other: Cache) -> None:
    root = mine.place.path
    whole = tree(root)
    for case in as_a_whole(mine, other):
        if case.how == "swap" and not case.file.startswith("commits/000001"):
            continue
        case.do(root, other.place.path)
        report = verify_cache(root)
        if case.file == "manifest.json" and case.how == "foreign":
            with pytest.raises(ForeignError):
                repair_cache(report)
            (root / "manifest.json").unlink()
        # Twice where the manifest is swapped: only once it is there again, others can be judged.
        for _ in range(2 if case.partner == "manifest.json" else 1):
            report = verify_cache(root)
            damaged = {fault.shard for fault in report.faults if fault.shard is not None}
            repair_cache(report)
            records = {path.name: path.read_bytes() for path in (root / "commits").iterdir()}
            assert len(records) == mine.shards - len(damaged) - case.uncommits, case
            fill(make_cache(root.parent, **SMALL))
            now = {path.name: path.read_bytes() for path in (root / "commits").iterdir()}
            assert records.items() <= now.items(), case
        assert tree(root) == whole, case
        report = verify_cache(root)
        assert (report.faults, report.committed, report.strays) == ((), mine.shards, ()), case
