"""What is tried, one thing changed at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.gap.trials import Variant

TASKS = ("reddit", "ag_news")
"""Where choices are made; what is chosen is measured on IMDB too."""


def vary_inputs() -> list[Variant]:
    """Kinds of inputs, the same number of steps."""
    kinds = (
        "vocabulary", "unigram", "bigram", "self", "real", "unigram=0.5,self=0.5",
        "vocabulary=0.5,self=0.5", "unigram=0.5,vocabulary=0.5", "self-labelled", "gaussian",
        "uniform",
    )  # fmt: skip
    rounds = ("rounds-3", "rounds-3-unigram")  # by far the slowest to make: on one task
    return [
        *(Variant(task, kind) for kind in kinds for task in TASKS),
        *(Variant("reddit", kind) for kind in rounds),
    ]


def vary_longest() -> list[Variant]:
    """What is left of the choice, on the task of the longest inputs."""
    kinds = ("unigram", "vocabulary", "unigram=0.5,self=0.5", "self", "real")
    return [Variant("imdb", kind, steps=200) for kind in kinds]


def vary_rest() -> list[Variant]:
    """Everything else, from `unigram` inputs, on the task that takes the least time."""
    changes: list[dict[str, Any]] = [
        *({"lengths": rule} for rule in ("uniform", "16", "64")),
        *({"rows": rows} for rows in (4096, 8192)),
        *({"objective": name} for name in ("generalised-kl", "l2", "algorithm-1", "logits")),
        *({"temperature": value} for value in (2.0, 4.0)),
        {"inputs": "singles=0.2,unigram=0.8"},
        {"balance": True},
        {"active": True},
        {"average": 0.99},
        *({"width": width} for width in (64, 256)),
        *({"depth": depth} for depth in (1, 6)),
    ]
    return [replace(Variant("reddit", "unigram"), **change) for change in changes]


def vary_shares() -> list[Variant]:
    """How much of its own words the model has to write."""
    kinds = ("unigram=0.9,self=0.1", "unigram=0.5,bigram=0.5")
    return [Variant(task, kind) for kind in kinds for task in TASKS]


def vary_seeds() -> list[Variant]:
    """The kinds of inputs that the choice is between, with three seeds."""
    kinds = ("unigram", "self", "unigram=0.5,self=0.5", "unigram=0.9,self=0.1", "real")
    return [Variant(task, kind, seed=seed) for seed in (1, 2) for kind in kinds for task in TASKS]


def vary_lengths() -> list[Variant]:
    """How long random inputs are, where texts are longest; no more rows than the steps read."""
    base = Variant("imdb", "unigram", steps=200)
    rules = [base, replace(base, lengths="uniform", rows=12800)]
    return [replace(rule, seed=seed) for seed in range(3) for rule in rules]


def vary_steps() -> list[Variant]:
    """Twice the steps: the model's own words are read again, random inputs are not."""
    kinds = ("unigram", "self", "real")
    return [Variant("reddit", kind, steps=1000, seed=seed) for seed in range(3) for kind in kinds]


def vary_objectives() -> list[Variant]:
    """The objectives that did no worse with one seed."""
    longest = replace(Variant("imdb", "unigram", steps=200), lengths="uniform", rows=12800)
    bases = [longest, *(Variant(task, "unigram") for task in TASKS)]
    return [
        replace(base, objective=name, seed=seed)
        for name in ("logits", "l2")
        for seed in range(3)
        for base in bases
    ]


PARTS: dict[str, Callable[[], list[Variant]]] = {
    "inputs": vary_inputs,
    "longest": vary_longest,
    "shares": vary_shares,
    "lengths": vary_lengths,
    "rest": vary_rest,
    "seeds": vary_seeds,
    "steps": vary_steps,
    "objectives": vary_objectives,
}
