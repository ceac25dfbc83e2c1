"""Say on which test texts students of two kinds of inputs differ, and what the inputs lack.

Used by ``benchmarks.inputs report``; nothing is chosen on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import format_head, format_row
from stages.metrics import fit_prior

OFTEN = 5
"""Rows that a token stands in before it counts as known."""
PARTS = 4


def describe_differences(
    place: Path,
    mixed: str,
    given: Mapping[str, NDArray[Any]],
    teacher: NDArray[Any],
    names: tuple[str, ...],
) -> Iterator[str]:
    """Yield what the rows of some kinds hold, and where their students differ.

    ``place`` has a file of rows a kind, and of answers to them; ``given`` maps kinds to the classes
    (N,) that their students give the test texts; ``teacher`` holds its class logits (N, K) to them
    with the prior taken off.
    """

    def read(name: str, key: str) -> NDArray[Any]:
        with np.load(place / f"{name}.npz") as kept:
            return np.asarray(kept[key])

    def count(kind: str) -> NDArray[np.int64]:
        tokens = read(kind, "tokens")
        return np.bincount(tokens[tokens >= 0], minlength=int(tested.max()) + 1)

    tested = read("test", "tokens")
    # Rows of `uniform` are no tokens.
    kinds = [kind for kind in given if (place / f"{kind}.npz").is_file()]
    mixed = mixed if mixed in kinds else kinds[0]
    here, which = tested >= 0, f"seen {OFTEN} times in {mixed}"
    yield "\nWhat the rows hold:\n"
    seen = ("test tokens seen, %", f"seen {OFTEN} times, %")
    content = "content of the teacher's answers"
    yield format_head(["inputs", "tokens a row", "distinct tokens", *seen, content])
    for kind in (*kinds, "test"):
        tokens, counts = read(kind, "tokens"), count(kind)
        shares = [f"{100 * (counts[tested[here]] >= least).mean():.1f}" for least in (1, OFTEN)]
        cells = [f"{(tokens >= 0).sum(axis=1).mean():.0f}", np.count_nonzero(counts)]
        cells += ["–", "–"] if kind == "test" else shares
        logits = torch.from_numpy(read(f"{kind}-logits", "logits"))
        yield format_row([kind, *cells, f"{fit_prior(logits.softmax(1).numpy()).content:.2f}"])
    known = ((count(mixed)[np.maximum(tested, 0)] >= OFTEN) & here).sum(axis=1) / here.sum(axis=1)
    top = np.sort(teacher, axis=1)
    yield "\nAccuracy in %, the prior of the `unigram` rows taken off:\n"
    yield from describe_groups(
        {"the teacher": teacher.argmax(axis=1), **given},
        read("test", "gold"),
        {"the teacher's margin": top[:, -1] - top[:, -2], f"tokens {which}": known},
        names,
    )


def describe_groups(
    given: Mapping[str, NDArray[Any]],
    gold: NDArray[Any],
    measures: Mapping[str, NDArray[Any]],
    names: tuple[str, ...],
) -> Iterator[str]:
    """Yield a table of accuracies by class, and by the quarters of what was measured of a text."""
    groups = {f"of {name}": gold == column for column, name in enumerate(names)}
    for what, values in measures.items():
        for part, rows in enumerate(np.array_split(np.argsort(values, kind="stable"), PARTS), 1):
            groups[f"{what}, quarter {part}"] = np.isin(np.arange(len(gold)), rows)
    groups["all"] = np.ones(len(gold), dtype=bool)
    yield format_head(["test texts", "share, %", *given])
    for group, rows in groups.items():
        right = (f"{100 * (found[rows] == gold[rows]).mean():.1f}" for found in given.values())
        yield format_row([group, f"{100 * rows.mean():.0f}", *right])
