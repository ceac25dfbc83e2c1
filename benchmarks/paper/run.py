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
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
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
    stamp = _find_file(step, plan, "done", "json")
    if not step.target.exists() or not stamp.is_file():
        return False
    made = stamp.stat().st_mtime_ns
    return json.loads(stamp.read_text())["arguments"] == list(step.arguments) and all(
        source.exists() and source.stat().st_mtime_ns <= made for source in step.sources
    )


def run_step(step: Step, plan: Plan, threads: int | None = None) -> int:
    """Run a step.

    Args:
        step: The step.
        plan: What it belongs to.
        threads: That it may take where others run beside it, and it prints to a log of its own;
            None: all, and it prints to this terminal.

    Returns:
        Its exit code.
    """
    print(f"$ pipeline {shlex.join(step.arguments)}", flush=True)
    environment, log = dict(os.environ), None
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        log = _find_file(step, plan, "logs", "log").open("w")
    began = time.monotonic()
    command = [sys.executable, "-m", "pipeline", *step.arguments]
    done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    if done.returncode == 0:
        made = {"arguments": step.arguments, "seconds": round(time.monotonic() - began, 1)}
        _find_file(step, plan, "done", "json").write_text(json.dumps(made))
    return done.returncode


def run_all(plan: Plan, jobs: int) -> int:
    """Run every step that is not done, some of them at a time, the report last.

    Args:
        plan: The experiments.
        jobs: How many at a time; they share the processor's cores evenly.

    Returns:
        0, or 1 where a step failed; the steps that do not need it are run all the same.
    """
    *steps, report = plan.list_steps()
    makers = {step.target: step for step in steps}
    graph = TopologicalSorter(
        {step: [makers[each] for each in step.sources if each in makers] for step in steps}
    )
    graph.prepare()
    threads, skipped, failed = max(1, (os.cpu_count() or 1) // jobs), 0, 0
    running: dict[Future[int], Step] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while graph.is_active():
                ready = graph.get_ready()
                for step in ready:
                    if is_done(step, plan):
                        skipped += 1
                        graph.done(step)
                    else:
                        running[pool.submit(run_step, step, plan, threads)] = step
                if not ready and not running:
                    break  # what is left needs a step that failed
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step = running.pop(future)
                    if code := future.result():
                        failed += 1
                        log = _find_file(step, plan, "logs", "log")
                        print(f"failed with {code}: {step.name}, see {log}", flush=True)
                    else:
                        graph.done(step)
                        print(f"done: {step.name}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if is_done(report, plan):
        skipped += 1
    elif run_step(report, plan):
        failed += 1
    print(f"{len(steps) + 1} steps: {skipped} were there, {failed} failed")
    return 1 if failed else 0


def _find_file(step: Step, plan: Plan, folder: str, ending: str) -> Path:
    path = plan.root / folder / f"{step.name.replace(' ', '-')}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


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
        codes = (run_step(step, plan) for step in _choose_steps(plan, options))
        return next(filter(None, codes), 0)
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


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
