"""The report as one page that holds everything it shows, and the same as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from stages.report.cells import UNKNOWN, Table, escape_markdown, format_mean
from stages.report.collect import Findings
from stages.report.commands import list_commands, list_versions
from stages.report.style import STYLE

CURVES_TITLE = "How student and teacher came together"
COMMANDS_TITLE = "How it was made"
COMMANDS_NOTE = "The commands that make all of it again:"
MISSING_TITLE = "What is missing, unreadable or left out"
NOTHING_MISSING = "Nothing that is known of."

NUMBER = re.compile(r"[<~]?\s?-?\d[\d.,]*(\s?[%×])?(\s±\s[\d.]+)?( \(n = \d+\))?")


@dataclass(frozen=True)
class Shown:
    """A figure on the page.

    Attributes:
        name: Name of its files.
        caption: What it shows.
        drawing: It as SVG.
    """

    name: str
    caption: str
    drawing: str


def write_summary(found: Findings) -> str:
    """Say the main figures in a paragraph."""
    trained = {run.task for run in found.runs}
    parts = [f"{_count(len(found.runs), 'student')} of {_count(len(trained), 'task')}."]
    changes: list[str] = []
    for task in found.tasks:
        told, means = [], {}
        for approach, words in (
            ("projection", "a student that saw no text"),
            ("texts", "one distilled on training texts"),
            ("direct", "one trained on their labels"),
        ):
            known = _find_scores(found, approach, task)
            if known:
                told.append(f"{words} {format_mean(known)}%")
                means[approach] = 100 * sum(known) / len(known)
        teacher = (found.teachers.get(task) or {}).get("teacher")
        if teacher:
            told.append(f"the teacher itself {teacher['accuracy']:.1%}")
        if told:
            parts.append(f"Accuracy on {task}: {', '.join(told)}.")
        if {"projection", "texts"} <= means.keys():
            points = "" if changes else " points"
            changes.append(f"{means['projection'] - means['texts']:+.1f}{points} on {task}")
    if changes:
        parts.append(f"Doing without training texts changes it by {', '.join(changes)}.")
    if found.faults:
        number = len(found.faults)
        parts.append(
            f"{_count(number, 'thing')} {'is' if number == 1 else 'are'} missing, unreadable or "
            "left out; the end of this page names them."
        )
    return " ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _find_scores(found: Findings, approach: str, task: str) -> list[float]:
    """Return the accuracies of an approach's students of the usual encoder.

    None where there are several recipes: only the table can tell these apart.
    """
    groups = [
        group
        for group in found.groups
        if (group.approach, group.arch) == (approach, found.main_arch) and task in group.runs
    ]
    if len(groups) != 1:
        return []
    scores = [run.score("accuracy") for run in groups[0].runs[task]]
    return [score for score in scores if score is not None]


def write_page(
    title: str, found: Findings, tables: Sequence[Table], figures: Sequence[Shown]
) -> str:
    """Return the report as HTML.

    Args:
        title: Its title.
        found: What it is about.
        tables: In the order of the page.
        figures: The figures.
    """
    curves = [figure for figure in figures if figure.name.startswith("curves")]
    body = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(write_summary(found))}</p>']
    for table in tables:
        body += [_head(table.title), _write_table(table)]
        body.append(f'<p class="note">{escape(table.note)}</p>')
        if table.key == "accuracy" and curves:
            body += [_head(CURVES_TITLE), *map(_write_figure, curves)]
        if table.key == "estimates":
            body += [_write_figure(figure) for figure in figures if figure not in curves]
    body += [_head(COMMANDS_TITLE), f"<p>{COMMANDS_NOTE}</p>"]
    commands = escape("\n".join(list_commands(found)))
    body.append(f'<pre tabindex="0" role="region" aria-label="commands">{commands}</pre>')
    body.append(_write_list(list_versions(found)))
    body.append(_head(MISSING_TITLE))
    body.append(_write_list(found.faults) if found.faults else f"<p>{NOTHING_MISSING}</p>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_markdown(
    title: str, found: Findings, tables: Sequence[Table], figures: Sequence[Shown]
) -> str:
    """Return the report as Markdown, its figures as links to files."""
    parts = [f"# {escape_markdown(title)}", escape_markdown(write_summary(found))]
    for table in tables:
        parts += [f"## {table.title}", table.to_markdown(), escape_markdown(table.note)]
    parts += [f"![{escape_markdown(one.caption)}](figures/{one.name}.png)" for one in figures]
    commands = "\n".join(list_commands(found))
    fence = "`" * (2 + max([1, *map(len, re.findall("`+", commands))]))
    parts += [f"## {COMMANDS_TITLE}", COMMANDS_NOTE, f"{fence}\n{commands}\n{fence}"]
    parts.append("\n".join(f"- {escape_markdown(line)}" for line in list_versions(found)))
    faults = "\n".join(f"- {escape_markdown(line)}" for line in found.faults)
    parts += [f"## {MISSING_TITLE}", faults or NOTHING_MISSING]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(title: str) -> str:
    return f"<h2>{escape(title)}</h2>"


def _write_table(table: Table) -> str:
    columns = range(len(table.heads))
    marks = []
    for column in columns:
        cells = {row[column] for row in table.rows} - {UNKNOWN}
        numeric = bool(cells) and all(NUMBER.fullmatch(cell) for cell in cells)
        marks.append(" ".join(["number"] * numeric + ["beside"] * (column in table.beside)))
    lines = []
    for number, row in enumerate(table.rows):
        # Paths may be broken behind a slash.
        cells_of_row = [f'<th scope="row">{escape(row[0]).replace("/", "/<wbr>")}</th>']
        cells_of_row += [
            f"<td{_mark(mark)}>{escape(cell)}</td>"
            for cell, mark in zip(row[1:], marks[1:], strict=True)
        ]
        stressed = _mark("stressed" if number in table.stressed else "")
        lines.append(f"<tr{stressed}>{''.join(cells_of_row)}</tr>")
    head = "".join(
        f'<th scope="col"{_mark(mark)}>{escape(name)}</th>'
        for name, mark in zip(table.under or table.heads, marks, strict=True)
    )
    above = "".join(
        f'<th scope="colgroup" colspan="{count}">{escape(name)}</th>' if name else "<td></td>"
        for name, count in table.spans
    )
    above = f"<tr>{above}</tr>" if above else ""
    kind = "scroll dense" if above else "scroll"
    return (
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(table.title)}"><table>'
        f"<thead>{above}<tr>{head}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def _mark(name: str) -> str:
    return f' class="{name}"' if name else ""


def _write_figure(figure: Shown) -> str:
    return (
        f'<figure><div tabindex="0" role="region" aria-label="{escape(figure.name)}">'
        f"{figure.drawing}</div><figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _write_list(lines: Sequence[str]) -> str:
    return "" if not lines else f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
