"""The commands on caches, as a user types them."""

from __future__ import annotations

import json
import os
import pty
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from processes import Result, run_here, start
from tiny import make_teacher_config

from cache.directory import Cache
from cache.opening import open_cache
from cache.reader import CacheReader
from stages.reporter import SilentReporter
from stages.teacher.stage import TeacherResult, run_teacher


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mine(filled: tuple[Path, TeacherResult], mood: Path, here: Path) -> Cache:
    """A copy of a full cache where the commands look by default, with its task."""
    shutil.copytree(filled[0], here / "data" / "cache")
    shutil.copy(mood, here)
    (place,) = (here / "data" / "cache").glob("mood/*")
    return open_cache(place)


def run(*arguments: object, code: int = 0) -> Result:
    found = run_here("cache", *arguments)
    assert (found.code, "Traceback" in found.err) == (code, False), found.err
    return found


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_path_prints_what_a_shell_can_use_and_a_link_is_as_good(mine: Cache, here: Path) -> None:
    relative = mine.place.path.relative_to(here)
    link = mine.place.path.with_name("best")
    link.symlink_to(mine.place.path)
    for name in (mine.fingerprint, mine.fingerprint[:5], mine.fingerprint[:40].upper()):
        assert run("path", name).out == f"{relative}\n"
    assert run("path", mine.place).out == f"{mine.place}\n"
    assert run("path", f"{relative}/").out == f"{relative}\n"
    for name in (f"file://{mine.place}", "best"):
        assert mine.fingerprint in run("show", name).out
    assert "is a link to" in run("remove", "best", "--yes", code=1).err
    assert mine.is_complete


def test_a_name_must_mean_one_cache(mine: Cache, here: Path) -> None:
    (mine.place.path / "manifest.json").write_bytes(b"{")
    assert run("path", mine.fingerprint[:4]).out == f"{mine.place.path.relative_to(here)}\n"
    copy = mine.place.path.with_name(mine.fingerprint[:8] + "0" * 24)
    shutil.copytree(mine.place.path, copy)
    for command in ("path", "show", "verify", "remove"):
        for name, told in (
            (mine.fingerprint[:8], ("2 caches begin with", mine.place.path.name, copy.name)),
            ("zz", ("no cache begins with 'zz'", copy.name)),
            ("", ("an empty name",)),
            ("./none", ("there is no directory",)),
        ):
            found = run(command, name, code=2)
            assert found.out == "" and all(part in found.err for part in told)
    assert "and there are none" in run("path", "a", "--cache", "elsewhere", code=2).err


def test_show_says_all_there_is(mine: Cache) -> None:
    shown = run("show", mine.fingerprint[:6]).out
    for part in (
        mine.fingerprint,
        "mood, 200 vocabulary",
        r"Is this good or bad?\n",
        "weights " + mine.manifest.inputs["model"]["weights"][:12],
        "vocabulary, seed 0",
        "cpu, float32, attention",
        "200 rows in chunks of 8 and shards of 32",
        "7 of 7 shards, 200 of 200 rows, complete",
        "workers      none",
        "bad: most probable in ",
        mine.manifest.created,
    ):
        assert part in shown
    data = json.loads(run("show", mine.fingerprint[:6], "--json").out)
    assert (data["fingerprint"], data["complete"], data["rows"]) == (mine.fingerprint, True, 200)
    assert data["inputs"] == mine.manifest.inputs
    g = [CacheReader(mine).read_shard(shard)["probabilities"] for shard in range(7)]
    votes = sum((part.argmax(axis=1) == 1).sum() for part in g)
    assert data["balance"]["good"]["rows"] == votes
    assert data["balance"]["good"]["probability"] == pytest.approx(
        sum(float(part[:, 1].sum()) for part in g) / 200
    )
    assert (data["workers"], data["seconds_left"], data["damage"]) == ([], None, [])
    records = [mine.record(shard) for shard in range(7)]
    assert data["row_bytes"] == sum(i.size for r in records for i in r.files.values()) / 200


def test_rate_is_that_of_one_worker_and_the_time_left_that_of_all(mine: Cache) -> None:
    for shard, seconds in enumerate([10.0, 10.0, 5.0]):
        record = replace(mine.record(shard), seconds=seconds)
        (mine.place.path / "commits" / f"{shard:06d}.json").write_bytes(record.to_bytes())
    for shard in range(3, 7):
        (mine.place.path / "commits" / f"{shard:06d}.json").unlink()
    claims = [mine.claim_next(), mine.claim_next()]
    data = json.loads(run("show", mine.fingerprint[:6], "--json").out)
    assert data["rate"] == pytest.approx(96 / 25)
    # 104 rows, of which one worker does 96 in 25 seconds, for two.
    assert data["seconds_left"] == pytest.approx(104 * 25 / 96 / 2)
    assert [worker["shard"] for worker in data["workers"]] == [3, 4]
    assert {worker["pid"] for worker in data["workers"]} == {os.getpid()}
    shown = run("show", mine.fingerprint[:6]).out
    assert "time left    0 min 14 s" in shown
    assert f"{os.uname().nodename}, process {os.getpid()}, shard 4" in shown
    for claim in claims:
        assert claim is not None
        claim.release()


def test_show_says_what_it_found_damaged(mine: Cache) -> None:
    # Nor does what a manifest says steer the terminal.
    document = replace(mine.manifest, label="a\x1b[2Jb\nc")
    (mine.place.path / "manifest.json").write_bytes(document.to_bytes())
    for arguments in (("list",), ("show", mine.fingerprint[:6]), ("verify",)):
        out = run(*arguments).out
        assert "\x1b" not in out and "a\ufffd[2Jb\ufffdc" in out
    flip(mine.place.path / "rows" / "seed" / "c" / "2")
    flip(mine.place.path / "commits" / "000004.json")
    found = run("show", mine.fingerprint[:6], code=1)
    assert "5 of 7 shards, 136 of 200 rows" in found.out
    assert "shard 2: " in found.err and "shard 4: " in found.err
    assert f"run `pipeline cache verify {mine.place.path.relative_to(Path.cwd())}`" in found.err
    flip(mine.place.path / "rows" / "zarr.json")
    data = json.loads(run("show", mine.fingerprint[:6], "--json", code=1).out)
    assert (len(data["damage"]), data["balance"], data["committed"]) == (2, {}, 6)
    (mine.place.path / "manifest.json").write_bytes(b"{")
    assert "pipeline cache verify" in run("show", mine.fingerprint[:6], code=1).err
    train = ("student", "--task", "mood.yaml", "--arch", "mini", "--from", mine.fingerprint[:6])
    found = run_here(*train)
    told = "manifest.json is not a sound manifest: not JSON; run `pipeline cache verify"
    assert (found.code, told in found.err) == (1, True)


def test_verify_names_what_is_damaged_and_the_teacher_makes_again_what_repair_removes(
    mine: Cache, here: Path, mood: Path, llm: Path
) -> None:
    root = mine.place.path
    whole = {path: path.read_bytes() for path in root.rglob("*/**/*") if path.is_file()}
    found = run("verify")
    assert found.out.startswith(f"OK       {mine.fingerprint[:12]}  7 of 7 shards, ")
    assert found.out.endswith(" bytes  mood, 200 vocabulary\n") and found.err == ""
    flip(root / "rows" / "seed" / "c" / "2")
    (root / "rows" / "logits" / "c" / "5" / "0").unlink()
    flip(root / "attachments" / "embedding.safetensors")
    (root / "commits" / "000000.json").unlink()

    shown = root.relative_to(here)
    found = run("verify", mine.fingerprint[:6], code=1)
    lines = found.out.splitlines()
    assert lines[0].startswith(f"{shown}/attachments/embedding.safetensors: changed since")
    assert lines[1].startswith(f"shard 2: {shown}/rows/seed/c/2: changed since")
    assert lines[2] == f"shard 5: {shown}/rows/logits/c/5/0: missing"
    assert lines[3].startswith(f"damaged  {mine.fingerprint[:12]}  6 of 7 shards, 3 faults, ")
    assert lines[4].startswith("  strays, which nothing reads: rows/length/c/0, ")
    assert f"`pipeline cache verify {shown} --repair`" in found.err
    (data,) = json.loads(run("verify", "--json", code=1).out)
    assert (data["sound"], data["committed"], data["shards"]) == (False, 6, 7)
    assert data["faults"][2] == {"file": "rows/logits/c/5/0", "fault": "missing", "shard": 5}
    assert data["removed"] is None and len(data["strays"]) == 4

    found = run("verify", mine.fingerprint[:6], "--repair")
    for path in ("attachments/embedding.safetensors", "rows/seed/c/2", "commits/000005.json"):
        assert f"removed {shown}/{path}\n" in found.out
    kept = {path: path.stat().st_mtime_ns for path in (root / "commits").iterdir()}
    assert sorted(path.name[5] for path in kept) == ["1", "3", "4", "6"]
    assert "to make it again: pipeline teacher with the same settings, which `pipeline" in found.err
    run_teacher(make_teacher_config(mood, llm, here / "data" / "cache"), SilentReporter())
    assert "OK " in run("verify").out
    for path, data in whole.items():
        if path.parent.name not in ("claims", "commits"):
            assert path.read_bytes() == data
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert len(list((root / "commits").iterdir())) == 7


def test_verify_goes_on_to_the_next_cache(mine: Cache, here: Path) -> None:
    (mine.place.path.with_name("junk")).mkdir()
    found = run("verify")
    assert "OK " in found.out
    assert "warning: data/cache/mood/junk is not a cache" in found.err
    found = run("verify", "./data/cache/mood/junk", mine.fingerprint[:6], code=1)
    assert "OK " in found.out
    assert "error: data/cache/mood/junk is not a cache" in found.err
    (mine.place.path / "manifest.json").write_bytes(b"{")
    copy = mine.place.path.with_name("0" * 32)
    shutil.copytree(mine.place.path, copy)
    found = run("verify", "--repair", "--json")
    results = {Path(entry["path"]).name: entry for entry in json.loads(found.out)}
    for name in (copy.name, mine.place.path.name):
        assert results[name]["removed"] == ["manifest.json"]
        assert (results[name]["shards"], results[name]["committed"]) == (None, 7)
    assert "junk" in results["junk"]["error"]
    assert run("verify", "--cache", "nowhere").out == "no caches below nowhere\n"
    assert json.loads(run("verify", "--cache", "nowhere", "--json").out) == []
    # What is in another's place is left to a person.
    wrong = mine.place.path.rename(mine.place.path.with_name("1" * 32))
    (wrong / "manifest.json").write_bytes(mine.manifest.to_bytes())
    assert "holds the manifest of another cache" in run("verify", code=1).out
    assert mine.place.path.name in run("verify", "--repair", code=1).err
    assert (wrong / "manifest.json").exists()


def test_remove_asks_and_needs_somebody_to_answer(mine: Cache) -> None:
    found = run("remove", mine.fingerprint[:6], code=2)
    assert "mood, 200 vocabulary, 200 rows, 7 commit records" in found.err
    assert "--yes" in found.err
    assert answer("n", "cache", "remove", mine.fingerprint[:6]) == (1, "nothing was removed")
    assert mine.is_complete
    code, said = answer("y", "cache", "remove", mine.fingerprint[:6])
    assert (code, said) == (0, f"removed {mine.place.path.relative_to(Path.cwd())}")
    assert not mine.place.path.exists()


def answer(word: str, *arguments: str) -> tuple[int | None, str]:
    """Run a command at a terminal where that is typed."""
    leader, follower = pty.openpty()
    os.write(leader, f"{word}\n".encode())
    done = start(*arguments, cwd=Path.cwd(), stdin=follower)
    _, said = done.communicate(timeout=300)
    os.close(leader), os.close(follower)
    return done.returncode, said.decode().rpartition(": ")[2].strip().splitlines()[-1]


def test_remove_takes_several_and_refuses_one_in_use(mine: Cache, here: Path) -> None:
    (mine.place.path / "commits" / "000003.json").unlink()
    with mine.claim_next() or pytest.fail("nothing to claim"):
        found = run("remove", mine.fingerprint[:6], "--yes", code=1)
        assert f"is in use: process {os.getpid()} " in found.err
    copy = mine.place.path.with_name("0" * 32)
    shutil.copytree(mine.place.path, copy)
    (copy / "manifest.json").write_bytes(b"{")
    (copy / "notes.txt").write_text("mine")
    assert "not a cache" in run("remove", "data/cache/mood", mine.place, "--yes", code=1).err
    assert mine.place.path.exists()
    found = run("remove", "0000", mine.fingerprint[:6], mine.place, "--yes")
    assert "no manifest, 6 commit records" in found.err
    assert "what is not part of a cache stays: notes.txt" in found.err
    left = sorted(path.name for path in (here / "data/cache/mood").rglob("*"))
    assert left == ["0" * 32, "notes.txt"]
