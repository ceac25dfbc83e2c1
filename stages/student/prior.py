"""The prior of a cache's answers: which one was asked for, and finding it on the rows."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cache.reader import CacheReader
from stages.errors import SettingError
from stages.metrics import Prior, fit_prior
from stages.student.config import BALANCED, NONE

if TYPE_CHECKING:
    from stages.reporter import Reporter


def find_prior(
    reader: CacheReader, asked: str, labels: Sequence[str], reporter: Reporter
) -> Prior | None:
    """Find what is to be taken off a cache's answers; None where nothing is.

    Args:
        reader: Its rows, of which every one counts.
        asked: ``balanced``, ``none``, or shares, ``label=share,…``.
        labels: Names in column order.
        reporter: Told the prior, and where it is doubtful.

    Raises:
        SettingError: ``asked`` is none of these.
        DamageError: A shard is damaged.
        Interrupted: A stop was asked for.
    """
    shares = parse_shares(asked, labels)
    if shares is None:
        reporter.say("prior: none is taken off the teacher's answers")
        return None
    parts = []
    with reporter.track("prior", len(reader.shards), 0, "shard") as advance:
        for shard in reader.shards:
            reporter.check_stop()
            cache = reader.cache
            parts.append(cache.read_column(cache.record(shard), "probabilities"))
            advance(1)
    prior = fit_prior(np.concatenate(parts), shares)
    told = zip(labels, prior.given, prior.shares, prior.biases, strict=True)
    reporter.say(
        "prior taken off: "
        + ", ".join(f"{name} {had:.1%} -> {has:.1%} ({b:+.2f})" for name, had, has, b in told)
        + " (mean probability, logit)"
    )
    if rare := [labels[k] for k in prior.find_rare()]:
        reporter.warn(
            f"the teacher hardly ever gives {', '.join(rare)} on these rows: what is left of its "
            "answers there is mostly noise, with the prior taken off or not"
        )
    return prior


def parse_shares(asked: str, labels: Sequence[str]) -> tuple[float, ...] | None:
    """Return the wanted shares, in the labels' order; None where no prior is to be taken off.

    Raises:
        SettingError: It is neither ``balanced`` nor ``none`` nor a positive share for each label.
    """
    if asked == NONE:
        return None
    if asked == BALANCED:
        return (1 / len(labels),) * len(labels)
    found: dict[str, float] = {}
    for part in asked.split(","):
        name, equals, share = (piece.strip() for piece in part.rpartition("="))
        if not equals or name not in labels or name in found:
            near = difflib.get_close_matches(name or share, labels, 1)
            hint = f"; did you mean {near[0]}?" if near and name not in found else ""
            raise SettingError(
                f"prior: got {part.strip()!r} in {asked!r}, must be {BALANCED}, {NONE}, or one "
                f"share for each of {', '.join(labels)}, as in {labels[0]}=0.4,…{hint}"
            )
        try:
            found[name] = float(share)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] <= 1:
            raise SettingError(f"prior: got {share!r} for {name}, must be in (0, 1]")
    if missing := [name for name in labels if name not in found]:
        raise SettingError(f"prior: {asked!r} has no share for {', '.join(missing)}")
    total = sum(found.values())
    if abs(total - 1) > 1e-3:
        raise SettingError(f"prior: the shares in {asked!r} sum to {total:g}, must sum to 1")
    return tuple(found[name] / total for name in labels)
