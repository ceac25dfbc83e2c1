"""The report's tables of the paper's questions: how good students are, and what they cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from stages.report.cells import UNKNOWN, Table, format_mean, format_percent
from stages.report.collect import Findings
from stages.report.runs import Run

NEEDS = {"direct": ("yes", "yes"), "texts": ("yes", "no")}
"""Whether texts and labels are needed; all others need neither."""

MEASURES = (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("agreement", "agreement"))


def tabulate_accuracy(found: Findings) -> Table:
    """Return accuracy and macro-F1 of every approach on every task (the paper's Table 1)."""
    measures = [
        (key, name)
        for key, name in MEASURES
        if key != "agreement" or any(run.score(key) is not None for run in found.runs)
    ]
    names = [name for _, name in measures]
    source = str(found.published.get("source", ""))
    others = ("accuracy", "macro-F1") if source else ()
    heads, under, spans = ["approach"], ["approach"], [("", 1)]
    beside = set()
    for task in found.tasks:
        heads += [f"{task}: {name}, %" for name in names]
        spans.append((f"{task}, %", len(names)))
        if source:
            beside |= {len(heads), len(heads) + 1}
            heads += [f"{task}: {name}, %, {source}" for name in others]
            spans.append((source, 2))
        under += [*names, *others]
    rows = []
    if found.teachers:
        cells = ["the teacher itself"]
        for task in found.tasks:
            scores = (found.teachers.get(task) or {}).get("teacher") or {}
            cells += [format_percent(scores.get(key)) for key, _ in measures]
            cells += [UNKNOWN] * len(others)
        rows.append(tuple(cells))
    stressed = set()
    for group in found.groups:
        cells = [group.name]
        published = found.find_published(group, "accuracy")
        for task in found.tasks:
            runs = group.runs.get(task, ())
            cells += [
                format_mean(
                    [run.score(key) for run in runs],
                    found.usual_seeds if key == "accuracy" else None,
                )
                for key, _ in measures
            ]
            if source:
                pair = published.get(task) or (None, None)
                cells += [UNKNOWN if x is None else f"{x}" for x in pair]
        if group.approach == "projection":
            stressed.add(len(rows))
        rows.append(tuple(cells))
    seeds = f"Mean ± standard deviation of {found.usual_seeds} seeds, unless another n is said. "
    note = (
        f"Accuracy and macro-F1 on the labelled test texts, in percent. "
        f"{seeds if found.usual_seeds > 1 else 'One seed each. '}"
        f"{'Agreement is with the teacher. ' if len(measures) > 2 else ''}"
        f"{found.published.get('note', '')}"
    )
    return Table(
        "accuracy",
        "How good the students are",
        note.strip(),
        tuple(heads),
        tuple(rows),
        tuple(spans),
        tuple(under),
        frozenset(beside),
        frozenset(stressed),
    )


def tabulate_cost(found: Findings) -> Table:
    """Return what each approach needs and takes (the paper's Table 2)."""
    heads = ["approach", "task", "texts?", "labels?", "preparation, s", "training, s",
             "together, s", "of direct training"]  # fmt: skip
    source = found.published.get("source")
    if source:
        heads.append(f"preparation + training, {source}")
    base: dict[str, float | None] = {}
    for group in found.groups:
        if group.approach == "direct" and group.arch == found.main_arch:
            for task, runs in group.runs.items():
                base.setdefault(task, _add_up(runs))
    rows: list[tuple[str, ...]] = []
    stressed = set()
    for task in found.tasks:
        for group in found.groups:
            runs = group.runs.get(task, ())
            if not runs:
                continue
            together, direct = _add_up(runs), base.get(task)
            cells = [group.name, task, *NEEDS.get(group.approach, ("no", "no"))]
            parts = (_average(runs, "preparation"), _average(runs, "training"), together)
            cells += [UNKNOWN if seconds is None else f"{seconds:,.0f}" for seconds in parts]
            cells.append(f"{together / direct:.2f} ×" if together and direct else UNKNOWN)
            if source:
                own = found.find_published(group, "cost")
                known = own.get("task") == task
                cells.append(f"{own['preparation']} + {own['training']}" if known else UNKNOWN)
            if group.approach == "projection":
                stressed.add(len(rows))
            rows.append(tuple(cells))
    machines = sorted({_name_machine(run) for run in found.runs} - {""})
    note = (
        f"Seconds, mean of the seeds, measured on {'; '.join(machines) or 'an unnamed machine'}. "
        "Preparation is what the teacher took for all rows of the cache; training is the loop "
        "alone. Where several commands ran beside each other all of them are slower."
    )
    return Table(
        "cost",
        "What they need and cost",
        note,
        tuple(heads),
        tuple(rows),
        beside=frozenset({len(heads) - 1} if source else ()),
        stressed=frozenset(stressed),
    )


def _average(runs: Sequence[Run], part: str) -> float | None:
    """Return the mean seconds of a part; None where they are not known of all."""
    known = [run.seconds(part) for run in runs]
    left = [seconds for seconds in known if seconds is not None]
    return statistics.mean(left) if left and len(left) == len(known) else None


def _add_up(runs: Sequence[Run]) -> float | None:
    parts = [_average(runs, part) for part in ("preparation", "training")]
    known = [seconds for seconds in parts if seconds is not None]
    return sum(known) if len(known) == len(parts) else None


def _name_machine(run: Run) -> str:
    versions = run.record.get("versions") or {}
    if "machine" not in versions:
        return ""
    return f"{versions['machine']}, threads: {versions.get('threads', 'unknown')}"
