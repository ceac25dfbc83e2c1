"""A report's table, and how figures are written in its cells."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

UNKNOWN = "–"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: Name of its file.
        title: What it shows.
        note: How to read it.
        heads: The columns' names, each of which says all.
        rows: Cells as text; the first column names the row.
        spans: Names of neighbouring columns together, with their number; empty, or for all columns.
        under: The columns' names below these; empty, or for all columns.
        beside: Columns of others' figures.
        stressed: Rows to be seen first.
    """

    key: str
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[str, int], ...] = ()
    under: tuple[str, ...] = ()
    beside: frozenset[int] = frozenset()
    stressed: frozenset[int] = frozenset()

    def to_markdown(self) -> str:
        """Return the table as GitHub writes it."""
        lines = [self.heads, tuple("---" for _ in self.heads), *self.rows]
        return "\n".join(f"| {' | '.join(escape_markdown(x) for x in line)} |" for line in lines)

    def to_csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.heads, *self.rows])
        return text.getvalue()


def format_mean(values: Sequence[float | None], usual: int | None = None) -> str:
    """Format the mean of shares in percent, with the standard deviation of several.

    Args:
        values: The shares; None for what is not known.
        usual: How many are told elsewhere; another number is told with the mean.
    """
    known = [100 * value for value in values if value is not None]
    if not known:
        return UNKNOWN
    spread = (
        f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{statistics.stdev(known):.1f}"
        if len(known) > 1
        else ""
    )
    count = f" (n = {len(known)})" if usual not in (None, len(known)) else ""
    return f"{statistics.mean(known):.1f}{spread}{count}"


def format_percent(value: float | None) -> str:
    """Format a share in percent, without the sign."""
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def escape_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line and in a table's cell too."""
    return escape(re.sub(r"([\\`*|\[\]])", r"\\\1", " ".join(text.split())), quote=False)
