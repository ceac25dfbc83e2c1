"""Students as a report sees them: what each says of itself, and which ones belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

APPROACHES = {
    "direct": "direct training on labelled texts",
    "texts": "distilled on training texts",
    "self": "distilled on the teacher's self-generated texts",
    "self-labelled": "distilled on the teacher's self-generated texts, a label in its prompt",
    "algorithm-1": "projection, uniform inputs, Algorithm 1",
    "projection": "projection, random inputs, no text",
}
"""Ways to a student, in the order of the paper's Table 1, ours last."""


@dataclass(frozen=True)
class Run:
    """A student.

    Attributes:
        path: Its directory.
        record: What it was trained from and how; :func:`find_flaw` finds none in it.
        evaluation: What it scored on labelled texts; None where that was not measured.
        prepared: Seconds that its cache says it took to fill; None where there is none, or of
            other rows than it was trained on.
    """

    path: Path
    record: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    prepared: float | None = None

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record["task"]["name"])

    @property
    def sampler(self) -> str:
        """Where its inputs come from."""
        return str(self.record.get("sampler") or "unknown")

    @property
    def approach(self) -> str:
        """A key of :data:`APPROACHES`."""
        if self.record.get("labels") == "gold":
            return "direct"
        if self.sampler in ("texts", "self", "self-labelled"):
            return self.sampler
        letter = self.sampler == "uniform" and self.training.get("objective") == "algorithm-1"
        return "algorithm-1" if letter else "projection"

    @property
    def arch(self) -> str:
        """The encoder, without the path to it."""
        return Path(str(self.record.get("arch") or "unknown encoder")).name

    @property
    def training(self) -> Mapping[str, Any]:
        """How it was trained."""
        found: Mapping[str, Any] = self.record.get("training") or {}
        return found

    @property
    def seed(self) -> int:
        """Seed of its start and of the order of its rows."""
        return int(self.training.get("seed") or 0)

    @property
    def fingerprint(self) -> str:
        """Its cache's; empty where it learned labels."""
        return str(self.record["fingerprint"] or "")

    @property
    def own(self) -> float | None:
        """Agreement with the teacher on texts that it wrote itself."""
        found = self.record.get("self_generated")
        return float(found["agreement"]) if found else None

    @property
    def held_out(self) -> float | None:
        """Agreement with the teacher on held-out rows; None where it learned labels."""
        return None if self.approach == "direct" else float(self.record["held_out"]["agreement"])

    def score(self, name: str) -> float | None:
        """Return ``accuracy``, ``macro_f1`` or ``agreement`` on labelled texts."""
        found = self.evaluation or {}
        value = found.get(name) if name == "agreement" else (found.get("student") or {}).get(name)
        return None if value is None else float(value)

    def seconds(self, part: str) -> float | None:
        """Return the seconds of its ``preparation`` or ``training``, where they are known."""
        if part == "preparation" and self.prepared is not None:
            return self.prepared
        name = "training" if part == "training" else "seconds"
        found = self.record.get("seconds" if part == "training" else part) or {}
        return None if found.get(name) is None else float(found[name])


@dataclass(frozen=True)
class Group:
    """Students that differ by nothing but the seed and the task.

    Attributes:
        approach: A key of :data:`APPROACHES`.
        arch: The encoder.
        name: What a table calls it.
        runs: The students by task, in the order of their seeds.
    """

    approach: str
    arch: str
    name: str
    runs: Mapping[str, tuple[Run, ...]]


def group_runs(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Put students together that differ by nothing but the seed and the task.

    What depends on the task, such as the number of steps, may differ between tasks.

    Returns:
        The groups in the order of :data:`APPROACHES`.  A name says the settings by which a group
        differs from another one.
    """
    order = list(APPROACHES)
    families: dict[tuple[str, str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (order.index(run.approach), run.arch, run.sampler)):
        families.setdefault((run.approach, run.arch, run.sampler), []).append(run)
    return tuple(group for family in families.values() for group in _split(family))


def name_approach(run: Run) -> str:
    """Return its approach in words, with its inputs where they are random."""
    if run.approach == "projection":
        return f"projection, {run.sampler} inputs, no text"
    return APPROACHES[run.approach]


# How a setting is said, whether a task may have its own, and where it stands.
_SETTINGS: tuple[tuple[str, bool, Callable[[Run], object]], ...] = (
    ("{}", False, lambda run: run.record.get("arch")),
    ("{} start", False, lambda run: run.record.get("init")),
    ("teacher {}", False, lambda run: run.record.get("teacher")),
    ("{}", False, lambda run: run.training.get("objective")),
    ("{} steps", True, lambda run: run.training.get("steps")),
    ("{} rows a step", True, lambda run: run.training.get("batch_size")),
    ("{} slices", True, lambda run: run.training.get("lengths_per_batch")),
    ("learning rate {}", True, lambda run: run.training.get("learning_rate")),
    ("{} cached rows", True, lambda run: run.record.get("rows")),
)


def _split(family: Sequence[Run]) -> list[Group]:
    """Split students of one approach, encoder and sampler by their other settings."""
    shown = [(words, find) for words, own, find in _SETTINGS if _differs(family, find, own)]

    def describe(run: Run) -> tuple[str, ...]:
        return tuple(words.format(find(run) or "unknown") for words, find in shown)

    # Caches of the same settings that differ all the same, by their seed for instance.
    caches: dict[tuple[object, ...], set[str]] = {}
    for run in family:
        caches.setdefault((run.task, *describe(run)), set()).add(run.fingerprint)
    several = any(len(found) > 1 for found in caches.values())
    found: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    for run in family:
        key = describe(run) + ((f"cache {run.fingerprint[:6]}",) if several else ())
        found.setdefault(key, {}).setdefault(run.task, []).append(run)
    first = family[0]
    return [
        Group(
            first.approach,
            first.arch,
            ", ".join((name_approach(first), first.arch, *settings)),
            {task: tuple(sorted(own, key=lambda run: run.seed)) for task, own in runs.items()},
        )
        for settings, runs in sorted(found.items())
    ]


def _differs(runs: Sequence[Run], find: Callable[[Run], object], own: bool) -> bool:
    seen: dict[str, set[object]] = {}
    for run in runs:
        seen.setdefault(run.task if own else "", set()).add(find(run))
    return any(len(values) > 1 for values in seen.values())


def find_flaw(record: Mapping[str, Any]) -> str | None:
    """Return the name of what is missing from a record, or is not what it must be; None: nothing.

    Only what reports read is looked at.  What older students do not say yet may be absent.
    """
    for names, fits in _SHAPES.items():
        value: Any = record
        for name in names.split("."):
            if value is None:
                break
            if not isinstance(value, Mapping):
                return names
            value = value.get(name)
        if (names in _NEEDED) if value is None else not fits(value):
            return names
    return None


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value: Any) -> bool:
    """Whether it is a number in [0, 1]."""
    return is_number(value) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_duration(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_share, value))


_NEEDED = ("task.name", "fingerprint", "held_out.rows", "held_out.agreement")
_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    "task.name": lambda value: _is_text(value) and bool(value),
    "fingerprint": _is_text,
    "held_out.rows": lambda value: _is_count(value) and value > 0,
    "held_out.agreement": is_share,
    "held_out.spread": is_number,
    "identity": _is_text,
    "arch": _is_text,
    "init": _is_text,
    "labels": _is_text,
    "texts": _is_text,
    "sampler": _is_text,
    "teacher": _is_text,
    "words_of": _is_text,
    "rows": _is_count,
    "training.objective": _is_text,
    "training.steps": _is_count,
    "training.batch_size": _is_count,
    "training.lengths_per_batch": _is_count,
    "training.log_every": _is_count,
    "training.seed": _is_count,
    "training.learning_rate": is_number,
    "seconds.training": _is_duration,
    "preparation.seconds": _is_duration,
    "versions": lambda value: isinstance(value, Mapping),
    "calibration.temperature": is_number,
    "curve": lambda value: (
        isinstance(value, list)
        and all(isinstance(row, Mapping) and is_number(row.get("step")) for row in value)
    ),
    "self_generated": lambda value: (
        isinstance(value, Mapping)
        and _is_count(value.get("rows"))
        and value["rows"] > 0
        and is_share(value.get("agreement"))
        and _is_interval(value.get("interval"))
    ),
}
