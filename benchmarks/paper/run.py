"""The paper's experiments: ``python -m benchmarks.paper.run [--data DIR] [--jobs N]``.

Puts the texts where the stages of ``dvc.yaml`` look for them.  With ``--jobs`` it then runs the
stages by make, several at a time, which DVC cannot do.  From the repository's root.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo

STAGES = Path("benchmarks/paper/dvc.yaml")
DATA = Path("data/paper")
TEXTS = DATA / "texts"


@dataclass(frozen=True)
class Stage:
    """A stage of ``dvc.yaml``, its variables replaced."""

    name: str
    command: str
    needs: tuple[Path, ...]
    makes: tuple[Path, ...]


def read_stages() -> list[Stage]:
    """Read the stages."""
    here, found = Path.cwd(), []
    for stage in Repo(".").index.stages:
        if Path(stage.path) == here / STAGES:
            needs = (dep for dep in stage.deps if not isinstance(dep, ParamsDependency))
            needed, made = (
                tuple(Path(each.fs_path).relative_to(here) for each in files)
                for files in (needs, stage.outs)
            )
            found.append(Stage(stage.name, stage.cmd, needed, made))
    return found


def place_texts(stages: Sequence[Stage], data: Path | None) -> None:
    """Copy the texts to where the stages look for them, unless these very texts are there.

    Raises:
        OSError: They are in neither place.
    """
    files = {path for stage in stages for path in stage.needs if path.is_relative_to(TEXTS)}
    for target in sorted(files):
        source = data and data / target.relative_to(TEXTS)
        if source and not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.partial")
            shutil.copyfile(source, partial)
            partial.replace(target)
            print(f"{source} -> {target}", flush=True)
        elif not target.is_file():
            raise FileNotFoundError(
                f"{target} is not there; say where the texts are, with `make paper DATA=DIR` or "
                "`--data DIR`, where DIR/<task> holds train.jsonl.gz and test.jsonl.gz"
            )


def write_makefile(stages: Sequence[Stage]) -> Path:
    """Write rules by which make runs every stage that is not done.

    A stage is done when the same command has ended well, and nothing that it needs is newer.
    """
    folder = DATA / "make"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"all: {' '.join(f'{folder}/{stage.name}.done' for stage in stages)}"]
    for stage in stages:
        done, log, command = (folder / f"{stage.name}.{end}" for end in ("done", "log", "command"))
        command.write_text(stage.command)
        if done.is_file() and done.read_text() != stage.command:
            done.unlink()
        before = [each for each in stages if each is not stage and _is_fed(stage, each)]
        made = {path for each in before for path in each.makes}
        needs = [f"{folder}/{each.name}.done" for each in before]
        needs += [str(path) for path in stage.needs if path.is_file() and path not in made]
        text = stage.command.replace("$", "$$")
        lines += [f"{done}: {' '.join(needs)}", f"\t({text}) > {log} 2>&1", f"\t@cp {command} $@"]
    makefile = folder / "Makefile"
    makefile.write_text("\n".join(lines) + "\n")
    return makefile


def _is_fed(stage: Stage, other: Stage) -> bool:
    pairs = ((need, made) for need in stage.needs for made in other.makes)
    return any(made.is_relative_to(need) or need.is_relative_to(made) for need, made in pairs)


def run_stages(stages: Sequence[Stage], jobs: int) -> int:
    """Run what is not done by make, so many stages at a time; return its exit code.

    After a failure the stages that do not need it are run all the same.  They share the cores.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    command = ["make", "--keep-going", f"--jobs={jobs}", "-f", str(write_makefile(stages)), "all"]
    return subprocess.run(command, env=environment, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Place the texts and run the stages; 0: done, 2: what is asked for cannot be, or make's."""
    parser = argparse.ArgumentParser(prog="benchmarks.paper.run", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of <task>/{train,test}.jsonl.gz")
    parser.add_argument("--jobs", type=int, help="stages at a time; left out: none are run")
    options = parser.parse_args(arguments)
    try:
        stages = read_stages()
        place_texts(stages, options.data)
    except (OSError, DvcException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if options.jobs is None else run_stages(stages, max(1, options.jobs))


if __name__ == "__main__":
    sys.exit(main())
