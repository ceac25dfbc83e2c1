"""How many threads compute, and how they wait: fresh processes, as libraries ask once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import start

from stages import devices

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}


@pytest.mark.parametrize(
    ("given", "environment", "said", "policy"),
    [
        (("--threads", 2), {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "ACTIVE"}, "2", "ACTIVE"),
        ((), {}, "1", "PASSIVE"),
    ],
)
def test_what_is_said_is_what_torch_uses_and_who_waits_sleeps_unless_asked_to_spin(
    given: tuple[object, ...], environment: dict[str, str], said: str, policy: str,
    llm: Path, mood: Path, tmp_path: Path,
) -> None:  # fmt: skip
    options = ("--rows", 64, "--sampler", "vocabulary", "--self-generated", 0, "--cache", tmp_path)
    options += ("--batch-positions", 512)
    process = start(
        *("teacher", "--task", mood, "--model", llm, *options, *given),
        cwd=tmp_path,
        env=PLAIN | {"OMP_DISPLAY_ENV": "TRUE"} | environment,
        preexec_fn=lambda: os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]),
    )
    err = process.communicate()[1].decode()
    assert process.returncode == 0, err
    assert f"threads: {said}, of 1 CPUs that this process may use" in err.splitlines()
    assert f"OMP_WAIT_POLICY = '{policy}'" in err


@pytest.mark.parametrize(
    ("place", "files", "count"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/a/b", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/../host/only", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "of no form"}, 8),
    ],
)
def test_a_container_s_share_of_the_machine_is_what_counts(
    place: str, files: dict[str, str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {**texts, "proc/self/cgroup": place}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert devices.count_cpus(tmp_path) == count
