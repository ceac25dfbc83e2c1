"""What the paper's experiments are made of: `pipeline` commands, and what each needs and leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from stages.teacher import TeacherConfig

PARAMS = Path("benchmarks/paper/params.yaml")
PUBLISHED = Path("benchmarks/paper/published.yaml")
DATA = Path("data/paper")
TEXTS = DATA / "texts"
FILES = TRAIN, TEST = "train.jsonl.gz", "test.jsonl.gz"

KINDS = ("texts", "self", "self-labelled", "projection", "algorithm-1")
"""Caches of a task, named after the approach that they are for."""
APPROACHES = ("direct", "texts", "texts-small", *KINDS[1:])
"""Rows of the paper's Table 1, the synthetic one in two ways, and RQ1's to the letter."""
TEACHER_SEED = 0
"""One cache for all seeds of the students."""


class PlanError(Exception):
    """The parameters or the texts are not what the experiments need."""


@dataclass(frozen=True)
class Profile:
    """At which scale the experiments are run."""

    teacher: str
    student: str
    small: str  # the second, smaller encoder
    steps: Mapping[str, int]  # of every student, by task
    batch: int  # rows a step
    log_every: int  # steps between two points of a curve
    held_out_rows: int  # that a point is measured on
    rows: int  # most random inputs of a task; fewer where its steps read no more
    self_generated: int  # texts of a task that the teacher writes


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str  # unique, for logs and messages
    arguments: tuple[str, ...]  # what follows `pipeline`
    sources: tuple[Path, ...]  # what must be there first
    target: Path  # what is there when it is done


@dataclass(frozen=True)
class Plan:
    """All experiments at one scale."""

    name: str  # the profile's
    profile: Profile
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]  # the students'

    @property
    def root(self) -> Path:
        """Where all of it lies."""
        return DATA / self.name

    def list_steps(self) -> list[Step]:
        """Return every step, each behind what it needs, one task after the other."""
        steps = []
        for task in self.tasks:
            keys = [(task, approach, seed) for approach in APPROACHES for seed in self.seeds]
            steps += [self.fill_cache(task, kind) for kind in KINDS]
            steps.append(self.evaluate_teacher(task))
            steps += [self.train_student(*key) for key in keys]
            steps += [self.evaluate_student(*key) for key in keys]
        evaluations = tuple(step.target for step in steps if step.name.startswith("evaluate"))
        return [*steps, self.write_report(evaluations)]

    def fill_cache(self, task: str, kind: str) -> Step:
        """Return the step that asks the teacher; the last kind but one is the default recipe."""
        train = TEXTS / task / TRAIN
        target = self.root / "teachers" / task / f"{kind}.json"
        read = self.profile.steps[task] * self.profile.batch + self.profile.held_out_rows
        shard = TeacherConfig(task=task).shard_rows
        own: tuple[object, ...] = {
            "texts": ("--texts", train),
            "self": ("--sampler", "self", "--rows", self.profile.self_generated),
            "self-labelled": ("--sampler", "self-labelled", "--rows", self.profile.self_generated),
            # As many whole shards as the steps read.
            "projection": ("--rows", min(self.profile.rows, -(-read // shard) * shard)),
            # Its lengths are those that were the default when its figures were made.
            "algorithm-1": (
                *("--sampler", "uniform", "--lengths", "log-uniform"),
                *("--rows", self.profile.rows),
            ),
        }[kind]
        common = ("teacher", "--task", task, "--model", self.profile.teacher)
        where = ("--seed", TEACHER_SEED, "--cache", self.root / "cache", "--summary", target)
        sources = (train,) if kind == "texts" else ()
        return _make_step(f"teacher {task} {kind}", (*common, *own, *where), sources, target)

    def train_student(self, task: str, approach: str, seed: int) -> Step:
        """Return the step that trains a student."""
        profile, target = self.profile, self._student(task, approach, seed)
        if approach == "direct":
            source = TEXTS / task / TRAIN
            learned: tuple[object, ...] = ("--labels", "gold", "--texts", source)
            learned += ("--model", profile.teacher)
        else:
            source = self.root / "teachers" / task / f"{approach.removesuffix('-small')}.json"
            learned = ("--cache", self.root / "cache", "--from", source)
        if approach == "algorithm-1":
            learned += ("--objective", "algorithm-1")
        how = ("--steps", profile.steps[task], "--batch-size", profile.batch)
        how += ("--log-every", profile.log_every, "--held-out-rows", profile.held_out_rows)
        arch = profile.small if approach == "texts-small" else profile.student
        arguments = ("student", "--task", task, "--arch", arch, *learned, *how)
        arguments += ("--seed", seed, "--out", target)
        name = f"student {task} {approach} {seed}"
        return _make_step(name, arguments, (source,), target / "training.json")

    def evaluate_student(self, task: str, approach: str, seed: int) -> Step:
        """Return the step that measures a student on the test texts."""
        student, test = self._student(task, approach, seed), TEXTS / task / TEST
        target = self.root / "evaluations" / task / f"{approach}-{seed}.json"
        arguments = ("evaluate", "--model", student, "--data", test, "--metrics", target)
        sources = (student / "training.json", test)
        return _make_step(f"evaluate {task} {approach} {seed}", arguments, sources, target)

    def evaluate_teacher(self, task: str) -> Step:
        """Return the step that measures the teacher itself on the test texts."""
        target, test = self.root / "evaluations" / task / "teacher.json", TEXTS / task / TEST
        arguments = ("evaluate", "--teacher", self.profile.teacher, "--task", task)
        arguments += ("--data", test, "--metrics", target)
        return _make_step(f"evaluate {task} teacher", arguments, (test,), target)

    def write_report(self, evaluations: tuple[Path, ...] = ()) -> Step:
        """Return the step that makes a page of all the others."""
        out = Path("reports/paper") / self.name
        arguments = ("report", "--students", self.root / "students", "--evaluations")
        arguments += (self.root / "evaluations", "--cache", self.root / "cache")
        arguments += ("--published", PUBLISHED, "--out", out)
        return _make_step("report", arguments, (PUBLISHED, *evaluations), out)

    def _student(self, task: str, approach: str, seed: int) -> Path:
        return self.root / "students" / task / f"{approach}-{seed}"


def read_plan(path: Path = PARAMS) -> Plan:
    """Read the parameters.

    Raises:
        PlanError: They are not as they must be.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = data["profile"]
        profile = Profile(**data["profiles"][name])
        plan = Plan(name, profile, tuple(data["tasks"]), tuple(data["seeds"]))
        missing = [task for task in plan.tasks if task not in profile.steps]
    except OSError as error:
        raise PlanError(
            f"cannot read {path} ({error.strerror}); run this from the repository's root"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise PlanError(f"{path}: {' '.join(str(error).split())}") from error
    if missing:
        raise PlanError(f"{path}: profile {name}: no steps for {', '.join(missing)}")
    return plan


def _make_step(
    name: str, arguments: tuple[object, ...], sources: tuple[Path, ...], target: Path
) -> Step:
    return Step(name, tuple(map(str, arguments)), sources, target)
