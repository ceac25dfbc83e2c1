from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from benchmarks.paper.plan import APPROACHES, DATA, PARAMS, PUBLISHED, Plan, Step, read_plan
from benchmarks.paper.run import main, run_all, write_makefile

ROOT = Path(__file__).parents[2]
SMALL = {"steps": {"reddit": 4}, "batch": 16, "log_every": 2, "held_out_rows": 64}
SMALL |= {"rows": 256, "self_generated": 128}


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
    for name in ("dvc.yaml", "params.yaml", "stages/tasks", "stages/mini", "benchmarks/paper"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            # What the repository itself has run is not what this folder has.
            ignored = shutil.ignore_patterns("dvc.lock", "__pycache__")
            shutil.copytree(ROOT / name, target, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, target)
    params = yaml.safe_load((folder / PARAMS).read_text())
    params |= {"tasks": ["reddit"], "seeds": [3]}
    params["profiles"]["mini"] |= SMALL | {"student": "static"}
    (folder / PARAMS).write_text(yaml.safe_dump(params))
    for name, count in (("train", 200), ("test", 20)):
        write_texts(tmp_path / "texts" / "reddit" / f"{name}.jsonl.gz", count)
    monkeypatch.chdir(folder)
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


@pytest.mark.filterwarnings("ignore:.*deprecated - use:DeprecationWarning")
def test_what_dvc_runs_is_what_is_planned(place: Path) -> None:
    from dvc.repo import Repo

    plan = read_plan()
    stages = [stage for stage in Repo(str(place)).index.stages if "paper" in str(stage.path)]
    outs = {Path(out.fs_path): stage for stage in stages for out in stage.outs}
    for step in plan.list_steps():
        target = place / step.target
        stage = outs.get(target) or outs[target.parent]
        needed = [Path(dep.fs_path) for dep in stage.deps]
        for source in step.sources:
            assert any((place / source).is_relative_to(dep) for dep in needed), (step.name, source)
    assert sum(step.name.startswith("student") for step in plan.list_steps()) == len(APPROACHES)
    # The demo's own pipeline is another one.
    assert "paper" not in dvc("repro", "--dry", "teacher")


def test_all_profiles_have_everything(place: Path) -> None:
    text = (ROOT / PARAMS).read_text()
    for name in yaml.safe_load(text)["profiles"]:
        PARAMS.write_text(text.replace("profile: mini", f"profile: {name}"))
        plan = read_plan()
        steps = plan.list_steps()
        there: set[Path] = {PUBLISHED}
        assert len({step.name for step in steps}) == len({step.target for step in steps})
        for step in steps:
            assert all(source in there or "texts" in source.parts for source in step.sources)
            there.add(step.target)


def test_a_chain_runs_once(place: Path) -> None:
    assert main(["texts", "--data", str(place.parent / "texts")]) == 0
    target = "benchmarks/paper/dvc.yaml:evaluate@reddit-direct-3"
    said = dvc("repro", target)
    for command in ("$ pipeline student --task reddit --arch static", "$ pipeline evaluate"):
        assert command in said
    assert "$ pipeline teacher" not in said
    found = json.loads((DATA / "mini/evaluations/reddit/direct-3.json").read_text())
    assert found["rows"] == 20
    assert "$ pipeline" not in dvc("repro", target)
    # Nor does what runs steps beside each other run these again, unless they are to be others.
    plan = read_plan()
    steps = (
        plan.train_student("reddit", "direct", 3),
        plan.evaluate_student("reddit", "direct", 3),
    )
    assert all(is_done(step, plan) for step in steps)
    other = replace(plan, profile=replace(plan.profile, batch=8))
    assert not any(is_done(step, other) for step in steps)


def is_done(step: Step, plan: Plan) -> bool:
    command = ["make", "--question", "-f", str(write_makefile(plan)), str(step.target)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_texts_that_are_nowhere_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["all"]) == 2
    assert "say where the texts are, with `make paper DATA=DIR`" in capsys.readouterr().err
    assert main(["texts", "--data", str(tmp_path)]) == 2
    assert f"there is no file {tmp_path}/reddit/train.jsonl.gz" in capsys.readouterr().err
    assert main(["student", "--task", "imdb"]) == 2
    assert "--task: got imdb, must be one of reddit" in capsys.readouterr().err
    PARAMS.write_text("profile: huge\nprofiles: {}\n")
    assert main(["all"]) == 2
    assert "params.yaml: 'huge'" in capsys.readouterr().err


@dataclass(frozen=True)
class Short(Plan):
    """Steps that cost nothing."""

    def list_steps(self) -> list[Step]:
        a, b, c, d = (Path(name) for name in "abcd")
        return [
            Step("the b", ("task", "list"), (a,), b),
            Step("the a", ("task", "list"), (), a),
            Step("the c", ("no-such-command",), (a,), c),
            Step("the d", ("task", "list"), (b, c), d),
        ]


def test_a_step_that_fails_stops_what_needs_it_alone(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = read_plan()
    short = Short(plan.name, plan.profile, plan.tasks, plan.seeds)
    for runs in (2, 0):
        assert run_all(short, jobs=2) != 0
        assert capfd.readouterr().out.count("-m pipeline task list") == runs
    assert "No such command" in (plan.root / "logs" / "the-c.log").read_text()
    assert [Path(name).exists() for name in "abcd"] == [True, True, False, False]


@pytest.mark.slow
def test_all_approaches_run_once(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["texts", "--data", str(place.parent / "texts")])
    dvc("repro", "benchmarks/paper/dvc.yaml")
    for approach in APPROACHES:
        record = json.loads((DATA / f"mini/students/reddit/{approach}-3/training.json").read_text())
        assert record["training"]["steps"] == 4
        assert record["training"]["seed"] == 3
        assert (DATA / f"mini/evaluations/reddit/{approach}-3.json").is_file()
    assert any(Path("reports/paper/mini").iterdir())
    assert "$ pipeline" not in dvc("repro", "benchmarks/paper/dvc.yaml")
    capfd.readouterr()
    assert main(["all", "--jobs", "2"]) == 0
    assert "-m pipeline" not in capfd.readouterr().out
