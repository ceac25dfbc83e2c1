"""The report's tables: how good students are, what they cost, and all that was found."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from stages.metrics import count_share
from stages.report.collect import Findings

UNKNOWN = "–"
PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"


class Table(NamedTuple):
    """A table: the name of its file, and text by columns; the first column names the row.

    Neighbouring columns with the same text in front of ``: `` share it as a heading above both.
    """

    key: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def spans(self) -> list[tuple[str, int]]:
        """What neighbouring columns share of their names, with their number."""
        shared = groupby(self.heads, lambda head: head.rpartition(": ")[0])
        return [(name, len(list(heads))) for name, heads in shared]

    def to_csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.heads, *self.rows])
        return text.getvalue()


def tabulate(found: Findings) -> list[Table]:
    """Return the tables that have rows, in the order of the report."""
    makers = (_tabulate_accuracy, _tabulate_cost, _tabulate_students)
    return [table for make in makers if (table := make(found)).rows]


def format_mean(values: Iterable[float | None], usual: int | None = None) -> str:
    """Format the mean of shares in percent, with standard deviation, and n if not the usual."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return UNKNOWN
    spread = f"{PLUS_MINUS}{statistics.stdev(known):.1f}" if len(known) > 1 else ""
    count = "" if usual in (None, len(known)) else f" (n = {len(known)})"
    return f"{statistics.mean(known):.1f}{spread}{count}"


def _tabulate_accuracy(found: Findings) -> Table:
    measures = {"accuracy": "accuracy, %", "macro_f1": "macro-F1, %"}
    if any(run.score("agreement") is not None for run in found.runs):
        measures["agreement"] = "agreement, %"
    heads, rows = ["approach"], [["the teacher itself"]]
    for task in found.tasks:
        heads += [f"{task}: {name}" for name in measures.values()]
        teacher = found.teachers.get(task)
        rows[0] += [format_mean([getattr(teacher, f"teacher_{key}", None)]) for key in measures]
    for group in found.groups:
        rows.append([group.name])
        for task in found.tasks:
            scores = [[run.score(key) for run in group.runs.get(task, ())] for key in measures]
            rows[-1] += [format_mean(values, found.usual_seeds) for values in scores]
    return Table("accuracy", heads, rows if found.teachers else rows[1:])


def _tabulate_cost(found: Findings) -> Table:
    yes = ("no", "yes")
    heads = ["approach", "task", "texts?", "labels?", "preparation, s", "training, s",
             "together, s", "of direct training"]  # fmt: skip
    rows: list[list[str]] = []
    for task in found.tasks:
        direct = None
        for group in [group for group in found.groups if task in group.runs]:
            preparation = _average([run.preparation for run in group.runs[task]])
            training = _average([run.training for run in group.runs[task]])
            both = _average([preparation, training])
            together = None if both is None else 2 * both
            if group.approach == "direct" and not group.small:  # these come first
                direct = direct or together
            row = [group.name, task, yes[group.approach in ("direct", "texts")]]
            row += [yes[group.approach == "direct"]]
            row += [_format(seconds, ",.0f") for seconds in (preparation, training, together)]
            row += [f"{together / direct:.2f} ×" if together and direct else UNKNOWN]
            rows.append(row)
    return Table("cost", heads, rows)


def _tabulate_students(found: Findings) -> Table:
    heads = ["student", "task", "encoder", "cache", "inputs", "training", "prior taken off",
             "centred α, held out", "agreement, held out", "agreement, self-generated texts",
             "temperature", "accuracy, %"]  # fmt: skip
    rows = [
        [
            str(run.path),
            run.task,
            f"{run.encoder}, {run.init or 'unknown'} start",
            run.cache or UNKNOWN,
            f"{'labels' if run.approach == 'direct' else run.sampler or 'unknown'}, "
            f"{_format(run.rows, ',')} rows",
            f"{run.objective or UNKNOWN}, {_format(run.steps)} × {_format(run.batch_size)} rows, "
            f"rate {_format(run.learning_rate, 'g')}, seed {_format(run.seed)}",
            "yes" if run.prior else "no",
            _format(run.centred_angle, ".3f"),
            _format_share(run.held_out, run.held_out_rows),
            _format_share(run.self_generated, run.self_generated_rows),
            _format(run.temperature, ".2f"),
            format_mean([run.score("accuracy")]),
        ]
        for run in found.runs
    ]
    return Table("students", heads, rows)


def _average(seconds: Sequence[float | None]) -> float | None:
    """Return the mean; None where not all are known."""
    known = [value for value in seconds if value is not None]
    return statistics.mean(known) if len(known) == len(seconds) else None


def _format(value: float | None, form: str = "") -> str:
    return UNKNOWN if value is None else format(value, form)


def _format_share(share: float | None, rows: int | None) -> str:
    return str(count_share(round(share * rows), rows)) if share is not None and rows else UNKNOWN
