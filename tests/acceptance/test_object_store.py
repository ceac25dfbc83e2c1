"""The commands on a cache in an object store, which behave as on a local one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import run_here

import cache.stores.bucket
from cache.stores.bucket import open_bucket
from stages.teacher.stage import TeacherResult

FILL = ("--rows", 200, "--chunk-rows", 8, "--shard-rows", 32, "--batch-positions", 512)
FILL += ("--dtype", "float32", "--sampler", "vocabulary", "--self-generated", "0")
TRAIN = ("--steps", 8, "--batch-size", 16, "--log-every", 4, "--held-out-rows", 16)

DIES_IN_ITS_THIRD_COMMIT = """
import os, signal
import cache.stores.leases
from cache.stores.bucket import Bucket
from pipeline.cli import main

cache.stores.leases.LEASE_SECONDS = 1.0
put = Bucket.put_if_absent

def die(files, path, data):
    if path == "commits/000002.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return put(files, path, data)

Bucket.put_if_absent = die
main()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find_cache(root: object) -> dict[str, Any]:
    found = run_here("cache", "list", "--cache", root, "--json")
    assert found.code == 0, found.err
    (entry,) = json.loads(found.out)
    return dict(entry)


def test_from_a_killed_teacher_to_an_evaluated_student(
    place: Path, s3: str, llm: Path, mood: Path, filled: tuple[Path, TeacherResult]
) -> None:
    teacher = ("teacher", "--task", mood, "--model", llm, *FILL, "--cache")
    command = [sys.executable, "-c", DIES_IN_ITS_THIRD_COMMIT, *map(str, teacher), s3]
    killed = subprocess.run(command, cwd=place, capture_output=True, check=False, timeout=300)
    assert killed.returncode == -9, killed.stderr.decode()
    entry = find_cache(s3)
    assert (entry["committed"], entry["shards"], entry["complete"]) == (2, 7, False)
    assert entry["path"].startswith(s3)

    student = ("student", "--task", mood, "--arch", "mini", *TRAIN, "--cache", s3, "--out", "out")
    found = run_here(*student)
    assert found.code == 1
    assert "2 of 7 shards" in found.err
    found = run_here(*teacher, s3, "--summary", "summary.json")
    assert found.code == 0, found.err
    assert "continuing: 64 of 200 rows are there" in found.err
    assert "computed 136 rows" in found.err
    assert find_cache(s3)["complete"]

    local = Path(str(filled[1].cache.place))
    assert entry["path"].endswith(f"/mood/{local.name}")
    remote = open_bucket(entry["path"])
    names = [path for path, _ in remote.walk() if path.startswith(("rows/", "attachments/"))]
    assert len(names) > 28
    for name in names:
        assert remote.read(name, 10**7) == (local / name).read_bytes(), name

    found = run_here(*student, "--from", "summary.json")
    assert found.code == 0, found.err
    found = run_here("evaluate", "--model", "out", "--cache", s3)
    assert found.code == 0, found.err
    assert "16 held-out rows" in found.out
    assert "every row was there already" in run_here(*teacher, s3).err


def test_what_is_wrong_is_said_in_one_sentence(
    place: Path, s3: str, mood: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.bucket, "RETRIES", 1)
    commands: tuple[tuple[object, ...], ...] = (
        ("teacher", "--task", mood, "--model", llm, *FILL),
        ("student", "--task", mood, "--arch", "mini", "--out", "out"),
        ("cache", "list"),
    )
    for bucket, name, value, told in (
        ("nowhere", "AWS_REGION", "us-east-1", "there is no bucket 'nowhere'"),
        ("caches", "AWS_ACCESS_KEY_ID", "wrong", "the store refuses it (SignatureDoesNotMatch)"),
        ("caches", "AWS_ENDPOINT_URL", "http://127.0.0.1:9", "http://127.0.0.1:9 cannot be"),
    ):
        monkeypatch.setenv(name, value)
        for command in commands:
            found = run_here(*command, "--cache", s3.replace("caches", bucket))
            assert (found.code, found.out) == (1, "")
            (line,) = [line for line in found.err.splitlines() if line.startswith("error: ")]
            assert found.err.endswith(line + "\n")
            assert told in line or (command[0] == "teacher" and "refuses it (403)" in line)
            assert "secret" not in found.err
