from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.paper.run import STAGES, Stage, main, read_stages, run_stages

ROOT = Path(__file__).parents[2]
FOUND = Path("data/paper/mini")
APPROACHES = ("direct", "texts", "texts-small", "self", "self-labelled", "projection")
APPROACHES += ("algorithm-1",)
SMALL = {"seeds": [3], "tasks": [{"name": "reddit", "steps": 4, "rows": 256}], "student": "static"}
SMALL |= {"batch": 16, "log_every": 2, "held_out_rows": 64, "uniform_rows": 256}
SMALL["self_generated"] = 128

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated - use:DeprecationWarning")


def write_texts(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [("I love this", "positive"), ("I hate that so much", "negative"), ("ok", "positive")]
    with gzip.open(path, "wt") as out:
        for k in range(count):
            text, label = texts[k % 3]
            out.write(json.dumps({"text": f"{text} {k}", "label": label}) + "\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the repository with a short task, and texts beside it."""
    folder = tmp_path / "a project"
    for name in ("stages/tasks", "stages/mini", "benchmarks/paper"):
        # What the repository itself has run is not what this folder has.
        ignored = shutil.ignore_patterns("dvc.lock", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    monkeypatch.chdir(folder)
    profile = yaml.safe_load(Path("benchmarks/paper/mini.yaml").read_text())
    Path("benchmarks/paper/mini.yaml").write_text(yaml.safe_dump(profile | SMALL))
    for name, count in (("train", 200), ("test", 20)):
        write_texts(tmp_path / "texts" / "reddit" / f"{name}.jsonl.gz", count)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    dvc("init", "--no-scm", "--quiet")
    return folder


def dvc(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("profile", [pytest.param("mini", marks=pytest.mark.slow), "llama"])
def test_all_stages_have_what_they_need(profile: str, place: Path) -> None:
    shutil.copyfile(ROOT / STAGES.with_name("mini.yaml"), STAGES.with_name("mini.yaml"))
    STAGES.write_text(STAGES.read_text().replace("mini.yaml  # or", f"{profile}.yaml  # or"))
    stages = read_stages()
    assert len(stages) == 3 * (5 + 1 + 2 * 3 * len(APPROACHES)) + 1
    made = {path for stage in stages for path in stage.makes}
    for stage in stages:
        for need in stage.needs:
            is_made = any(path.is_relative_to(need) for path in made)
            assert is_made or need.is_file() or "texts" in need.parts, (stage.name, need)
    # The demo's own pipeline is another one.
    assert "paper" not in dvc("repro", "--dry", "teacher")


@pytest.mark.slow
def test_a_chain_runs_once(place: Path) -> None:
    assert main(["--data", str(place.parent / "texts")]) == 0
    target = f"{STAGES}:evaluate@task0-direct-3"
    said = dvc("repro", target)
    for command in ("> pipeline student --task reddit --arch static", "> pipeline evaluate"):
        assert command in said
    assert "> pipeline teacher" not in said
    found = json.loads((FOUND / "evaluations/reddit/direct-3.json").read_text())
    assert found["rows"] == 20
    assert "> pipeline" not in dvc("repro", target)


def test_texts_that_are_nowhere_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 2
    assert "say where the texts are, with `make paper DATA=DIR`" in capsys.readouterr().err
    assert main(["--data", str(tmp_path)]) == 2
    assert f"{tmp_path}/reddit/test.jsonl.gz" in capsys.readouterr().err
    STAGES.write_text("stages: 3\n")
    assert main([]) == 2
    assert "dvc.yaml" in capsys.readouterr().err


def test_a_stage_that_fails_stops_what_needs_it_alone(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b, c, d = (Path(name) for name in "abcd")
    stages = [
        Stage("make-b", "cp a b", (a,), (b,)),
        Stage("make-a", "echo $HOME > a", (), (a,)),
        Stage("make-c", "no-such-command", (a,), (c,)),
        Stage("make-d", "cp b d", (b, c), (d,)),
    ]

    def run() -> list[str]:
        assert run_stages(stages, jobs=2) != 0
        said = capfd.readouterr().out
        return [stage.name for stage in stages if f"({stage.command})" in said]

    assert run() == ["make-b", "make-a", "make-c"]
    assert a.read_text() == b.read_text() == f"{os.environ['HOME']}\n"
    assert "no-such-command" in Path("data/paper/make/make-c.log").read_text()
    assert run() == ["make-c"]
    # Another command is another stage, and what needs it is done again.
    stages[1] = Stage("make-a", "echo new > a", (), (a,))
    assert run() == ["make-b", "make-a", "make-c"]
    assert b.read_text() == "new\n" and not d.exists()


@pytest.mark.slow
def test_all_approaches_run_once(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(place.parent / "texts"), "--jobs", "2"]
    assert main(arguments) == 0
    for approach in APPROACHES:
        record = json.loads((FOUND / f"students/reddit/{approach}-3/training.json").read_text())
        assert record["training"]["steps"] == 4
        assert record["training"]["seed"] == 3
        assert (FOUND / f"evaluations/reddit/{approach}-3.json").is_file()
    assert any(Path("reports/paper/mini").iterdir())
    capfd.readouterr()
    assert main(arguments) == 0
    assert "pipeline" not in capfd.readouterr().out
