"""The report as one page that holds everything it shows, and the same as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from stages.caches import format_teacher_command
from stages.report import Findings, Run
from stages.report_tables import UNKNOWN, Table, format_mean

STYLE = """\
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --muted: #59636e;
  --line: #d1d9e0; --soft: #f6f8fa; --accent: #0060a8; --series-0: #0072b2; --series-1: #c04e00;
  --series-2: #007a59; --series-3: #a8527f; --series-4: #806200; --series-5: #5f4fc0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e6e9ec; --muted: #a3adb8;
  --line: #3a424b; --soft: #1d2226; --accent: #6cb6ff; --series-0: #5cb0e8; --series-1: #ff9d5c;
  --series-2: #45c9a0; --series-3: #e39ac4; --series-4: #d9b64a; --series-5: #aa9cff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; } .note { color: var(--muted); font-size: .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td { white-space: nowrap; } tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 500; min-width: 13rem; } thead th { background: var(--soft); }
.published { color: var(--muted); font-style: italic; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; min-width: 30rem; max-width: 54rem; }
figcaption { color: var(--muted); font-size: .9rem; }
pre { overflow-x: auto; background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: .75rem 1rem; font-size: .8125rem; line-height: 1.5; }
ul { max-width: 46rem; padding-left: 1.2rem; overflow-wrap: anywhere; }
@media print { main { max-width: none; padding: 0; } .scroll, pre, figure { overflow: visible; }
  td { white-space: normal; } h2 { break-after: avoid; } }
"""


def write_summary(found: Findings) -> list[str]:
    """Say the main numbers: a sentence on all, and one for each task."""
    parts = [
        f"{len(found.runs)} student{'s' * (len(found.runs) != 1)} of "
        f"{len(found.tasks)} task{'s' * (len(found.tasks) != 1)}."
    ]
    for task in found.tasks:
        told = []
        teacher = (found.teachers.get(task) or {}).get("teacher")
        if teacher:
            told.append(f"the teacher is right on {teacher['accuracy']:.1%} of the test texts")
        for approach, words in (
            ("projection", "the student that saw no text on"),
            ("texts", "one distilled on training texts on"),
            ("direct", "one trained on labelled texts on"),
        ):
            scores = [
                run.score("accuracy")
                for run in found.runs
                if (run.task, run.approach, run.arch) == (task, approach, found.main_arch)
            ]
            if any(score is not None for score in scores):
                told.append(f"{words} {format_mean(scores)}")
        if told:
            parts.append(f"{task}: {', '.join(told)}.")
    return parts


def write_page(
    title: str, found: Findings, tables: Sequence[Table], figures: Mapping[str, tuple[str, str]]
) -> str:
    """Return the report as HTML.

    Args:
        title: Its title.
        found: What it is about.
        tables: In the order of the page.
        figures: SVG and caption of each figure, by name.
    """
    first, *rest = write_summary(found)
    body = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(first)}</p>', _write_list(rest)]
    for table in tables:
        body.append(_section(table.title))
        body.append(_write_table(table, str(found.published.get("source", "\0"))))
        body.append(f'<p class="note">{escape(table.note)}</p>')
        if table.key == "accuracy" and (curves := list(_write_figures(figures, "curves"))):
            body += [_section("How student and teacher came together"), *curves]
        if table.key == "estimates":
            body += _write_figures(figures, "estimates")
    body.append(_section("What is missing"))
    body.append(_write_list(found.faults) if found.faults else "<p>Nothing that is known of.</p>")
    body.append(_section("How it was made"))
    body.append("<p>The commands, each of which continues or finds what is there:</p>")
    body.append(f'<pre tabindex="0">{escape(chr(10).join(list_commands(found)))}</pre>')
    body.append(_write_list(list_versions(found)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_markdown(
    title: str, found: Findings, tables: Sequence[Table], figures: Mapping[str, tuple[str, str]]
) -> str:
    """Return the report as Markdown, its figures as links to files."""
    first, *rest = write_summary(found)
    parts = [f"# {title}", first, "\n".join(f"- {line}" for line in rest)]
    for table in tables:
        parts += [f"## {table.title}", table.to_markdown(), table.note]
    parts += [f"![{caption}](figures/{name}.png)" for name, (_, caption) in figures.items()]
    parts.append("## What is missing")
    parts.append("\n".join(f"- {line}" for line in found.faults) or "Nothing that is known of.")
    parts.append("## How it was made")
    parts.append("```\n" + "\n".join(list_commands(found)) + "\n```")
    parts.append("\n".join(f"- {line}" for line in list_versions(found)))
    return "\n\n".join(parts) + "\n"


def list_commands(found: Findings) -> list[str]:
    """Return the commands that make the caches and the students."""
    teachers = [format_teacher_command(cache) for cache in found.caches.values()]
    return [*teachers, *(format_student_command(run) for run in found.runs)]


def format_student_command(run: Run) -> str:
    """Return the command that trains a student."""
    training, record = run.training, run.record
    options: dict[str, Any] = {"task": run.task, "arch": record.get("arch", "?")}
    if record.get("labels") == "gold":
        options |= {"labels": "gold", "texts": record.get("texts", "?")}
        options["model"] = record.get("words_of", "auto")
    else:
        options |= {"from": str(record["fingerprint"])[:12]}
        options["objective"] = training.get("objective", "kl")
    options |= {
        name: training[name] for name in ("steps", "rows", "slices", "seed") if name in training
    }
    options["out"] = run.path
    return " ".join(
        ["pipeline student", *(f"--{key} {shlex.quote(str(x))}" for key, x in options.items())]
    )


def list_versions(found: Findings) -> list[str]:
    """Say what the students were trained with, and what their caches hold."""
    lines = dict.fromkeys(
        ", ".join(f"{name} {value}" for name, value in (run.record.get("versions") or {}).items())
        for run in found.runs
    )
    caches = [
        f"cache {fingerprint[:12]}: {cache.manifest.label}, teacher "
        f"{cache.manifest.notes.get('model', UNKNOWN)}"
        for fingerprint, cache in found.caches.items()
    ]
    return [*(line for line in lines if line), *caches]


def _section(title: str) -> str:
    return f"<h2>{escape(title)}</h2>"


def _write_table(table: Table, published: str) -> str:
    marked = [published in head for head in table.heads]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.heads)
    lines = []
    for row in table.rows:
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        cells += [
            f"<td{' class=published' if mark else ''}>{escape(cell)}</td>"
            for cell, mark in zip(row[1:], marked[1:], strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def _write_figures(figures: Mapping[str, tuple[str, str]], kind: str) -> Iterator[str]:
    for name, (drawn, caption) in figures.items():
        if name.startswith(kind):
            yield f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def _write_list(lines: Sequence[str]) -> str:
    return "" if not lines else f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
