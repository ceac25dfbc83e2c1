"""The paper's experiments: ``python -m benchmarks.paper.run STAGE``, from the repository's root.

``texts`` puts the texts in their place, ``all`` does everything, several steps at a time and none
that is there; the other stages are what DVC runs.  Every `pipeline` command is printed.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.plan import (
    APPROACHES,
    FILES,
    KINDS,
    TEXTS,
    Plan,
    PlanError,
    Step,
    read_plan,
)

POLL_SECONDS = 0.2


def place_texts(plan: Plan, data: Path | None) -> None:
    """Copy the texts to where the stages look for them, unless these very texts are there.

    Raises:
        PlanError: They are in neither place.
    """
    for task in plan.tasks:
        for name in FILES:
            target = TEXTS / task / name
            if data is None:
                if not target.is_file():
                    raise PlanError(
                        f"{target} is not there; say where the texts are, with `make paper "
                        "DATA=DIR` or `--data DIR`, where DIR/<task> holds "
                        f"{' and '.join(FILES)}"
                    )
                continue
            source = data / task / name
            if not source.is_file():
                raise PlanError(f"there is no file {source}")
            if not target.is_file() or not filecmp.cmp(source, target, shallow=False):
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f"{name}.partial")
                shutil.copyfile(source, partial)
                partial.replace(target)
                print(f"{source} -> {target}", flush=True)


def is_done(step: Step, plan: Plan) -> bool:
    """Whether a step's target is there, made by the same command from what is there now."""
    stamp = _stamp(step, plan)
    if not step.target.exists() or not stamp.is_file():
        return False
    made = stamp.stat().st_mtime_ns
    return json.loads(stamp.read_text())["arguments"] == list(step.arguments) and all(
        source.exists() and source.stat().st_mtime_ns <= made for source in step.sources
    )


def run_step(step: Step, plan: Plan) -> None:
    """Run a step with its output on this terminal.

    Raises:
        SystemExit: It failed; with its exit code.
    """
    print(format_command(step), flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pipeline", *step.arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    _mark(step, plan, time.monotonic() - began)


def run_all(plan: Plan, jobs: int) -> int:
    """Run every step that is not done, some of them at a time.

    Args:
        plan: The experiments.
        jobs: How many at a time; they share the processor's cores evenly.

    Returns:
        0, or 1 where a step failed; the steps that do not need it are run all the same.
    """
    environment = dict(os.environ)
    if jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment |= {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    waiting, failed, skipped = plan.list_steps(), 0, 0
    total = len(waiting)
    running: dict[subprocess.Popen[bytes], tuple[Step, float]] = {}
    try:
        while waiting or running:
            missing = {step.target for step in waiting}
            missing |= {step.target for step, _ in running.values()}
            for step in list(waiting):
                if len(running) == jobs:
                    break
                if missing & set(step.sources):
                    continue
                waiting.remove(step)
                if is_done(step, plan):
                    missing.discard(step.target)
                    skipped += 1
                    continue
                running[_start(step, plan, environment)] = step, time.monotonic()
                print(format_command(step), flush=True)
            for process in [each for each in running if each.poll() is not None]:
                step, began = running.pop(process)
                seconds = time.monotonic() - began
                if process.returncode == 0:
                    _mark(step, plan, seconds)
                    left = len(waiting) + len(running)
                    print(f"done in {seconds:.0f} s: {step.name} ({left} to go)", flush=True)
                    continue
                failed += 1
                waiting, lost = _drop(waiting, step)
                print(
                    f"failed: {step.name}, see {_log(step, plan)}; without it {lost} other steps "
                    "cannot be run",
                    flush=True,
                )
            time.sleep(POLL_SECONDS if running else 0)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    print(f"{total} steps: {skipped} were there, {failed} failed")
    return 1 if failed else 0


def format_command(step: Step) -> str:
    """Return the command as it could be typed."""
    return f"$ pipeline {shlex.join(step.arguments)}"


def _drop(steps: list[Step], lost: Step) -> tuple[list[Step], int]:
    """Return the steps that do not need a lost one, and how many do; the report needs none."""
    targets, left = {lost.target}, []
    for step in steps:
        if step.name != "report" and targets & set(step.sources):
            targets.add(step.target)
        else:
            left.append(step)
    return left, len(steps) - len(left)


def _start(step: Step, plan: Plan, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    log = _log(step, plan)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        command = [sys.executable, "-m", "pipeline", *step.arguments]
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)


def _mark(step: Step, plan: Plan, seconds: float) -> None:
    stamp = _stamp(step, plan)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps({"arguments": step.arguments, "seconds": round(seconds, 1)}))


def _stamp(step: Step, plan: Plan) -> Path:
    return plan.root / "done" / f"{step.name.replace(' ', '-')}.json"


def _log(step: Step, plan: Plan) -> Path:
    return plan.root / "logs" / f"{step.name.replace(' ', '-')}.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage, or everything; 0: done, 1: failed, 2: what is asked for cannot be."""
    parser = argparse.ArgumentParser(prog="benchmarks.paper.run", description=__doc__)
    stages = ("texts", "all", "teacher", "teacher-alone", "student", "evaluate", "report")
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--task")
    parser.add_argument("--approach", choices=APPROACHES)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--data", type=Path, help="folder of <task>/{train,test}.jsonl.gz")
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time, with `all`")
    options = parser.parse_args(arguments)
    try:
        plan = read_plan()
        if options.stage in ("texts", "all"):
            place_texts(plan, options.data)
            return run_all(plan, max(1, options.jobs)) if options.stage == "all" else 0
        for step in _choose_steps(plan, options):
            run_step(step, plan)
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _choose_steps(plan: Plan, options: argparse.Namespace) -> list[Step]:
    if options.stage == "report":
        return [plan.write_report()]
    if options.task not in plan.tasks:
        raise PlanError(f"--task: got {options.task}, must be one of {', '.join(plan.tasks)}")
    if options.stage == "teacher":
        return [plan.fill_cache(options.task, kind) for kind in KINDS]
    if options.stage == "teacher-alone":
        return [plan.evaluate_teacher(options.task)]
    if options.approach is None or options.seed is None:
        raise PlanError(f"{options.stage}: give --approach and --seed")
    key = (options.task, options.approach, options.seed)
    return [plan.train_student(*key) if options.stage == "student" else plan.evaluate_student(*key)]


if __name__ == "__main__":
    sys.exit(main())
