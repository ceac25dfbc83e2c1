"""What the benchmarks share: a clock, spreads, and tables in the sections of Markdown files."""

from __future__ import annotations

import os
import platform
import re
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

QUICK = "Tiny sizes, to try the script: the figures mean nothing.\n"


@dataclass(frozen=True)
class Spread:
    """A median, and how far the rounds lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the median of some values, the lowest and the highest."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        digits = 1 if self.median >= 100 else 2
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def timed(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that an action takes."""
    start = clock()
    action()
    return clock() - start


def rotate(names: Sequence[str], turn: int) -> list[str]:
    """Return the names with another one first each turn."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def format_row(cells: Iterable[object]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def format_head(cells: Sequence[str]) -> str:
    """Return the first two lines of a Markdown table."""
    return f"{format_row(cells)}\n|{'---|' * len(cells)}"


def run_sections(
    title: str,
    command: Sequence[str],
    sections: Mapping[str, Callable[[], Iterator[str]]],
    out: Path | None,
    quick: bool = False,
) -> None:
    """Measure sections, print them, and keep each in a file as soon as it is measured.

    Args:
        title: The file's title.
        command: What was typed, the first word being a module.
        sections: What measures them, by heading; they replace those of the same heading.
        out: The file; its other sections stay.
        quick: Whether the figures mean nothing.
    """
    for heading, measure in sections.items():
        typed = shlex.join(["python", "-m", *command])
        lines = [f"## {heading}\n", f"`{typed}`: {describe_machine()}.\n", *[QUICK] * quick]
        print("\n".join(lines), flush=True)
        for line in measure():
            print(line, flush=True)
            lines.append(line)
        print()
        if out:
            known = out.read_text(encoding="utf-8") if out.is_file() else f"# {title}"
            out.write_text(merge_section(known, heading, "\n".join(lines)), encoding="utf-8")


def merge_section(known: str, heading: str, section: str) -> str:
    """Put a section into a text, in the place of that of the same heading or at the end."""
    parts = re.split(r"^(?=## )", known, flags=re.MULTILINE)
    places = [k for k, part in enumerate(parts) if part.splitlines()[:1] == [f"## {heading}"]]
    place = places[0] if places else len(parts)
    parts[place : place + 1] = [section]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def describe_machine() -> str:
    """Return the cores, how busy they are, and the versions of what computes."""
    import torch

    return (
        f"{os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}), "
        f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f} at the start; "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{version('transformers')}"
    )
