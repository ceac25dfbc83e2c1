"""The study's tables, and how well what needs no text predicted what is true of real texts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from benchmarks.gap.trials import Variant

ABOUT = """\
`python -m benchmarks.gap --data DIR`, then `python -m benchmarks.gap --report`.  Students of 3
layers × 128 from a random start, 64 rows a step in 4 slices, `kl`, 500 steps and 32,768 rows where
nothing else is said; of the teacher's own words there are 8,192, of real texts the whole training
file.  Lengths are log-uniform from 1 to the task's longest; texts end where they end.  Agreement
with the mini teacher in percent, on 1,024 held-out rows of three kinds and on the test texts (of
IMDB 3,000 of them); accuracy on the latter.  Variants stand in the order of their agreement on the
teacher's self-generated texts.  By that, the held-out rows and the time that inputs take choices are made;
what is true of real texts stands beside it.  Mean ± standard deviation where there are several
seeds.  One seed's agreement on 1,024 rows is uncertain by about 1.5 points, and its accuracy lies
about 0.3 points from another seed's."""

WORDS = Path(__file__).with_name("words.md")
"""What follows from the tables, for people."""

KINDS = ("vocabulary", "unigram", "self", "real")
HEADS = ("held out: vocabulary", "unigram", "self-generated texts", "real texts")


def write_report(work: Path, out: Path) -> str:
    """Write the study's page and its figure from the students that are there; return the page."""
    runs = read_runs(work / "runs")
    lines = ["# Closing the gap to real texts", "", ABOUT, "", *format_tables(runs)]
    lines += ["## What predicted real texts", "", "Spearman's rank correlation over all students:"]
    lines += ["", *correlate(runs), "", f"![agreement and accuracy]({out.stem}.png)", ""]
    lines += [WORDS.read_text(encoding="utf-8").strip(), ""]
    page = "\n".join(lines)
    out.write_text(page, encoding="utf-8")
    draw_scatter(runs, out.with_suffix(".png"))
    return page


def read_runs(folder: Path) -> list[tuple[Variant, dict[str, Any]]]:
    """Read the students that are there; files of a run in the making are empty."""
    found = []
    for path in sorted(folder.glob("*.json")):
        text = path.read_text()
        if text:
            run = json.loads(text)
            result = run.pop("found")
            found.append((Variant(**run), result))
    return found


def describe(variant: Variant) -> str:
    """Say what is not the default."""
    plain = Variant(variant.task, variant.inputs, seed=variant.seed)
    changes = [
        name if value is True else f"{name} {value}"
        for name, value in vars(variant).items()
        if value != getattr(plain, name)
    ]
    return ", ".join([f"`{variant.inputs}`", *changes])


def format_cells(values: Sequence[float], digits: int = 1) -> str:
    """Format a mean in percent, with the standard deviation where there are several."""
    mean = f"{100 * statistics.mean(values):.{digits}f}"
    spread = f" ± {100 * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return mean + spread


def format_tables(runs: list[tuple[Variant, dict[str, Any]]]) -> list[str]:
    """Return a table for each task, a line for each variant, the best on self-generated texts first."""
    lines = []
    for task in dict.fromkeys(variant.task for variant, _ in runs):
        groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for variant, result in runs:
            if variant.task == task:
                groups.setdefault((variant.steps, describe(variant)), []).append(result)
        teacher = next(iter(groups.values()))[0]["real"]["teacher"]
        lines += [
            f"## {task} (teacher {100 * teacher:.1f})",
            "",
            f"| variant | seeds | {' | '.join(HEADS)} | accuracy |",
            "|---|---|" + "---|" * (len(HEADS) + 1),
        ]
        best = sorted(
            groups.items(),
            key=lambda item: -statistics.mean(result["self"]["agreement"] for result in item[1]),
        )
        for (_, name), results in best:
            cells = [format_cells([r[kind]["agreement"] for r in results]) for kind in KINDS]
            accuracy = format_cells([r["real"]["accuracy"] for r in results])
            lines.append(f"| {name} | {len(results)} | {' | '.join(cells)} | {accuracy} |")
        lines.append("")
    return lines


def correlate(runs: list[tuple[Variant, dict[str, Any]]]) -> list[str]:
    """Return rank correlations of each data-free figure with what is true of real texts."""
    truths = {"accuracy": "accuracy on the test file", "agreement": "agreement on real texts"}
    lines = [
        "| task | students | with | held out: vocabulary | unigram | self-generated texts |",
        "|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(variant.task for variant, _ in runs):
        own = [result for variant, result in runs if variant.task == task]
        if len(own) < 3:
            continue
        for name, words in truths.items():
            truth = [result["real"][name] for result in own]
            cells = [
                f"{spearmanr([result[kind]['agreement'] for result in own], truth).statistic:.2f}"
                for kind in KINDS[:3]
            ]
            lines.append(f"| {task} | {len(own)} | {words} | {' | '.join(cells)} |")
    return lines


def draw_scatter(runs: list[tuple[Variant, dict[str, Any]]], path: Path) -> None:
    """Draw agreement on self-generated texts against accuracy on the test files, one panel a task."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(variant.task for variant, _ in runs))
    figure = Figure(figsize=(4 * len(tasks), 3.6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        own = [result for variant, result in runs if variant.task == task]
        panel.scatter(
            [100 * result["self"]["agreement"] for result in own],
            [100 * result["real"]["accuracy"] for result in own],
            s=18,
            alpha=0.7,
        )
        panel.axhline(100 * own[0]["real"]["teacher"], linewidth=0.8, color="0.5")
        panel.set_title(f"{task}: {len(own)} students; line: the teacher", fontsize=9)
        panel.set_xlabel("agreement on the teacher's self-generated texts, %")
        panel.set_ylabel("accuracy on the test file, %")
    figure.savefig(path, dpi=110)
