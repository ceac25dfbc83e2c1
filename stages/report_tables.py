"""The report's tables: accuracy, cost, and every student."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.intervals import count_share, read_share
from stages.ranks import correlate_ranks
from stages.report import Findings, Group, Run

UNKNOWN = "–"
NEEDS = {"direct": "texts and labels", "texts": "texts"}


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: Name of its file.
        title: What it shows.
        note: How to read it.
        heads: The columns' names.
        rows: Cells as text; the first column names the row.
    """

    key: str
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """Return the table as GitHub writes it."""
        lines = [self.heads, tuple("---" for _ in self.heads), *self.rows]
        return "\n".join(f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines)

    def to_csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.heads, *self.rows])
        return text.getvalue()


def list_tables(found: Findings) -> tuple[Table, ...]:
    """Return the tables that there is something for."""
    tables = (tabulate_accuracy(found), tabulate_cost(found), tabulate_estimates(found),
              tabulate_students(found))  # fmt: skip
    return tuple(table for table in tables if table.rows)


def tabulate_accuracy(found: Findings) -> Table:
    """Return accuracy and macro-F1 of every approach on every task (the paper's Table 1)."""
    tasks = found.tasks or tuple(sorted(found.teachers))
    heads = ["approach"]
    for task in tasks:
        heads += [task, *([f"{task}: {found.published['source']}"] if found.published else [])]
    rows = []
    if found.teachers:
        cells = ["the teacher itself"]
        for task in tasks:
            scores = (found.teachers.get(task) or {}).get("teacher")
            cells.append(
                f"{scores['accuracy']:.1%} / {scores['macro_f1']:.1%}" if scores else UNKNOWN
            )
            cells += [UNKNOWN] * bool(found.published)
        rows.append(tuple(cells))
    for group in found.groups:
        cells = [group.name]
        published = _find_published(found, group, "accuracy")
        for task in tasks:
            runs = group.runs.get(task, ())
            cells.append(
                f"{format_mean([run.score('accuracy') for run in runs])} / "
                f"{format_mean([run.score('macro_f1') for run in runs])}"
                if any(run.score("accuracy") is not None for run in runs)
                else UNKNOWN
            )
            if found.published:
                pair = published.get(task)
                told = [UNKNOWN if x is None else f"{x}%" for x in pair or ()]
                cells.append(" / ".join(told) or UNKNOWN)
        rows.append(tuple(cells))
    seeds = sorted({len(runs) for group in found.groups for runs in group.runs.values()})
    counted = "-".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) if seeds else "0"
    note = (
        f"Accuracy / macro-F1 on the labelled test texts, mean ± standard deviation of {counted} "
        f"seeds. {found.published.get('note', '')}"
    )
    return Table("accuracy", "How good the students are", note.strip(), tuple(heads), tuple(rows))


def tabulate_cost(found: Findings) -> Table:
    """Return what each approach needs and takes (the paper's Table 2)."""
    heads = [
        "approach",
        "task",
        "needs",
        "preparation",
        "training",
        "together",
        "of direct training",
    ]
    if found.published:
        heads.append(f"preparation + training: {found.published['source']}")
    base = {}
    for group in found.groups:
        if group.approach == "direct" and group.arch == found.main_arch:
            base = {task: _total(runs) for task, runs in group.runs.items()}
    rows = []
    for task in found.tasks:
        for group in found.groups:
            runs = group.runs.get(task, ())
            together = _total(runs)
            if together is None:
                continue
            direct = base.get(task)
            parts = [_mean([run.seconds(part) for run in runs]) or 0.0
                     for part in ("preparation", "training")]  # fmt: skip
            cells = [group.name, task, NEEDS.get(group.approach, "nothing")]
            cells += [f"{seconds:,.0f} s" for seconds in (*parts, together)]
            cells.append(f"{together / direct:.2f}" if direct else UNKNOWN)
            if found.published:
                own = _find_published(found, group, "cost")
                cells.append(f"{own['preparation']} + {own['training']}" if own else UNKNOWN)
            rows.append(tuple(cells))
    machines = sorted({_name_machine(run) for run in found.runs} - {""})
    note = (
        f"Seconds, mean of the seeds, measured on {'; '.join(machines) or 'an unnamed machine'}. "
        "Preparation is what the teacher took for the cache, all rows of it; training is the loop "
        "alone. Where several commands ran beside each other all of them are slower."
    )
    return Table("cost", "What they cost", note, tuple(heads), tuple(rows))


def tabulate_estimates(found: Findings) -> Table:
    """Return how well figures that need no text foretell the accuracy on the test texts."""
    rows = []
    for task in found.tasks:
        runs = [run for run in found.runs if run.task == task and run.score("accuracy") is not None]
        cells = [task]
        for known in (
            [(run.own, run.score("accuracy")) for run in runs if run.own is not None],
            [(run.record["held_out"]["agreement"], run.score("accuracy")) for run in runs],
        ):
            if len(known) < 3:
                cells.append(UNKNOWN)
                continue
            ours, truth = zip(*known, strict=True)
            rank = correlate_ranks(list(map(float, ours)), [float(one or 0) for one in truth])
            cells.append(f"{rank:.2f} ({len(known)} students)")
        if cells[1:] != [UNKNOWN, UNKNOWN]:
            rows.append(tuple(cells))
    note = (
        "Spearman's rank correlation with the accuracy on the test texts, over all students of a "
        "task: of the agreement on texts that the teacher wrote itself, and of that on held-out "
        "rows of the student's own kind of inputs, which differ from student to student."
    )
    heads = ("task", "own texts", "held-out rows")
    return Table("estimates", "What can be known without any text", note, heads, tuple(rows))


def tabulate_students(found: Findings) -> Table:
    """Return every student with what it was trained from and how well it agrees."""
    rows = []
    for run in found.runs:
        held = run.record["held_out"]
        share = count_share(round(held["agreement"] * held["rows"]), held["rows"])
        own = read_share(run.record.get("own_texts"))
        warm = run.record.get("calibration") or {}
        rows.append(
            (
                str(run.path),
                run.task,
                run.approach,
                f"{run.arch}, {run.record.get('init', '?')} start",
                str(run.record["fingerprint"])[:12] or UNKNOWN,
                f"{run.record.get('sampler', '?')}, {run.record.get('rows', 0):,} rows",
                f"{run.training.get('objective', '?')}, {run.training.get('steps', 0):,} steps of "
                f"{run.training.get('rows', 0)}, seed {run.seed}",
                str(share),
                UNKNOWN if own is None else str(own),
                f"{warm['temperature']:.2f}" if "temperature" in warm else UNKNOWN,
                UNKNOWN if run.score("accuracy") is None else f"{run.score('accuracy'):.1%}",
            )
        )
    heads = ("student", "task", "approach", "encoder", "cache", "inputs", "training",
             "agreement, held out", "agreement, own texts", "temperature", "accuracy")  # fmt: skip
    note = "Agreements are with the teacher (with the labels for direct training); 95 % intervals."
    return Table("students", "Every student", note, heads, tuple(rows))


def format_mean(values: Sequence[float | None]) -> str:
    """Format the mean of shares in percent, with the standard deviation of several."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return UNKNOWN
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{spread}%"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _total(runs: Sequence[Run]) -> float | None:
    training = _mean([run.seconds("training") for run in runs])
    if training is None:
        return None
    return training + (_mean([run.seconds("preparation") for run in runs]) or 0.0)


def _find_published(found: Findings, group: Group, what: str) -> Mapping[str, Any]:
    small = group.arch != found.main_arch
    for row in found.published.get(what, ()):
        if row["approach"] == group.approach and bool(row.get("small")) == small:
            return dict(row)
    return {}


def _name_machine(run: Run) -> str:
    versions = run.record.get("versions") or {}
    if "machine" not in versions:
        return ""
    return f"{versions['machine']}, {versions.get('threads', '?')} thread(s) each"


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
