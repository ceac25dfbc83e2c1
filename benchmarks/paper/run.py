"""The paper's experiments: ``python -m benchmarks.paper.run STAGE``, from the repository's root.

``texts`` puts the texts in their place, ``all`` does everything, several steps at a time and none
that is there; the other stages are what DVC runs.  Every `pipeline` command is printed.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shlex
import shutil
import subprocess
import sys
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


def run_step(step: Step) -> int:
    """Run a step with its output on this terminal; return its exit code."""
    print(f"$ pipeline {shlex.join(step.arguments)}", flush=True)
    command = [sys.executable, "-m", "pipeline", *step.arguments]
    return subprocess.run(command, check=False).returncode


def write_makefile(plan: Plan) -> Path:
    """Write rules by which make runs every step that is not done.

    A step is done when its target is there, and nothing that it needs is newer, nor its arguments.
    """
    lines, targets = [".PHONY: all"], []
    for step in plan.list_steps():
        arguments, log = (
            plan.root / folder / step.name.replace(" ", "-") for folder in ("arguments", "logs")
        )
        for path in (arguments, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        text = shlex.join([sys.executable, "-m", "pipeline", *step.arguments])
        if not arguments.is_file():
            arguments.write_text(text)
            os.utime(arguments, (0, 0))  # whatever is there was made by these
        elif arguments.read_text() != text:
            arguments.write_text(text)
        needs = " ".join(map(str, (arguments, *step.sources)))
        command = text.replace("$", "$$")
        lines += [f"{step.target}: {needs}", f"\t{command} > {log}.log 2>&1", "\t@touch $@"]
        targets.append(str(step.target))
    makefile = plan.root / "Makefile"
    makefile.write_text("\n".join([*lines, f"all: {' '.join(targets)}"]) + "\n")
    return makefile


def run_all(plan: Plan, jobs: int) -> int:
    """Run every step that is not done by make, some of them at a time.

    Args:
        plan: The experiments.
        jobs: How many at a time; they share the processor's cores evenly.

    Returns:
        make's exit code; after a failure the steps that do not need it are run all the same.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    command = ["make", "--keep-going", f"--jobs={jobs}", "-f", str(write_makefile(plan)), "all"]
    return subprocess.run(command, env=environment, check=False).returncode


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
        codes = map(run_step, _choose_steps(plan, options))
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
