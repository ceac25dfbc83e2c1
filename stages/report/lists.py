"""The report's tables of what was found: students, caches, and how well estimates predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stages.metrics import correlate_ranks, count_share, read_share
from stages.report.cells import UNKNOWN, Table, format_percent
from stages.report.collect import Findings
from stages.report.runs import Run

ESTIMATES = (("own", "self-generated texts"), ("held_out", "held-out rows"))
"""What is known of a student without any text: attribute, and what it is called."""


def correlate(runs: Sequence[Run], estimate: str, truth: str) -> tuple[float, int] | None:
    """Return Spearman's rank correlation of an estimate with the truth, and of how many students.

    Args:
        runs: Students of one task.
        estimate: An attribute of a student, one of :data:`ESTIMATES`.
        truth: ``accuracy`` or ``agreement`` on the test texts.

    Returns:
        None where both are known of fewer than three, or one is the same for all.
    """
    known = [
        (ours, score)
        for run in runs
        if (ours := getattr(run, estimate)) is not None and (score := run.score(truth)) is not None
    ]
    if len(known) < 3:
        return None
    ours, scores = zip(*known, strict=True)
    rank = correlate_ranks(ours, scores)
    return None if math.isnan(rank) else (rank, len(known))


def tabulate_estimates(found: Findings) -> Table:
    """Return how well figures that need no text foretell the scores on the test texts."""
    heads = ["task"]
    truths = [
        truth
        for truth in ("accuracy", "agreement")
        if truth == "accuracy" or any(run.score(truth) is not None for run in found.runs)
    ]
    heads += [f"{name} with {truth}" for truth in truths for _, name in ESTIMATES]
    rows = []
    for task in found.tasks:
        runs = [run for run in found.runs if run.task == task]
        cells = [task]
        for truth in truths:
            for estimate, _ in ESTIMATES:
                rank = correlate(runs, estimate, truth)
                cells.append(UNKNOWN if rank is None else f"{rank[0]:.2f} (n = {rank[1]})")
        if set(cells[1:]) != {UNKNOWN}:
            rows.append(tuple(cells))
    note = (
        "Spearman's rank correlation over the students of a task that learned the teacher's "
        "answers: of their agreement with it on texts that it wrote itself, and on held-out rows "
        "of their own kind of inputs, with what they score on the labelled test texts."
    )
    title = "How well it can be predicted without any text"
    return Table("estimates", title, note, tuple(heads), tuple(rows))


def tabulate_students(found: Findings) -> Table:
    """Return every student with what it was trained from and how well it agrees."""
    rows = []
    for run in found.runs:
        held, training = run.record["held_out"], run.training
        share = count_share(round(held["agreement"] * held["rows"]), held["rows"])
        own = read_share(run.record.get("self_generated"))
        temperature = (run.record.get("calibration") or {}).get("temperature")
        cached = run.record.get("rows")
        rate = training.get("learning_rate")
        rows.append(
            (
                str(run.path),
                run.task,
                f"{run.arch}, {run.record.get('init') or 'unknown'} start",
                run.fingerprint[:12] or UNKNOWN,
                f"{'labels' if run.approach == 'direct' else run.sampler}, "
                f"{UNKNOWN if cached is None else f'{cached:,}'} rows",
                f"{training.get('objective') or UNKNOWN}, {training.get('steps') or UNKNOWN} × "
                f"{training.get('batch_size') or UNKNOWN} rows"
                f"{'' if rate is None else f', rate {rate:g}'}, seed {run.seed}",
                str(share),
                UNKNOWN if own is None else str(own),
                UNKNOWN if temperature is None else f"{temperature:.2f}",
                format_percent(run.score("accuracy")),
            )
        )
    heads = ("student", "task", "encoder", "cache", "inputs", "training", "agreement, held out",
             "agreement, self-generated texts", "temperature", "accuracy, %")  # fmt: skip
    note = (
        "Agreements are with the teacher, or with the labels for direct training, with 95 % "
        "intervals; the temperature was fitted on held-out rows."
    )
    return Table("students", "Every student", note, heads, tuple(rows))


def tabulate_caches(found: Findings) -> Table:
    """Return every cache that a student was trained from, whether it is there or not."""
    users: dict[str, list[Run]] = {}
    for run in found.runs:
        if run.fingerprint:
            users.setdefault(run.fingerprint, []).append(run)
    rows = []
    for fingerprint, runs in users.items():
        cache, record = found.caches.get(fingerprint), runs[0].record
        spread = record["held_out"].get("spread")
        seconds = runs[0].seconds("preparation")
        cached = cache.layout.rows if cache else record.get("rows")
        rows.append(
            (
                fingerprint[:12],
                runs[0].task,
                runs[0].sampler,
                UNKNOWN if cached is None else f"{cached:,}",
                str(record.get("teacher") or UNKNOWN),
                UNKNOWN if spread is None else f"{spread:.3f}",
                UNKNOWN if seconds is None else f"{seconds:,.0f}",
                str(len(runs)),
                str(cache.place) if cache else "not there",
            )
        )
    heads = ("cache", "task", "inputs", "rows", "teacher", "spread", "seconds", "students",
             "where")  # fmt: skip
    note = (
        "The spread is the root mean square distance of the teacher's probabilities from their "
        "mean, on held-out rows: near 0 it answers all inputs alike. Seconds are the teacher's."
    )
    return Table("caches", "The teachers' answers", note, heads, tuple(rows))
