"""The prior of a cache's answers: which one was asked for, and finding it on the rows."""

from collections.abc import Sequence

import numpy as np
import torch

from cache.reader import CacheReader
from stages.inputs import find_drawn, find_objection, read_self_generated
from stages.metrics import RARE, Prior, average_answers, fit_prior
from stages.reporter import Reporter
from stages.tasks import AUTO, parse_shares

DOUBTFUL_DISTANCE = 0.25
"""Half the sum of the differences of shares above which the prior of the rows is doubtful."""


def find_prior(
    readers: Sequence[CacheReader], asked: str, labels: Sequence[str], reporter: Reporter
) -> Prior | None:
    """Find what is to be taken off cached answers; None where nothing is.

    Args:
        readers: The same rows answered under one prompt each.  Every row counts, but for those that
            the model wrote, where others are drawn: what it writes is about something.
        asked: ``balanced``, ``none``, shares (``label=share,…``), or ``auto``: balanced unless
            :func:`find_objection` has one.
        labels: Names in column order.
        reporter: Told the prior, and where it is doubtful.

    Raises:
        SettingError: ``asked`` is none of these.
        DamageError: A shard is damaged.
    """
    shares = parse_shares(asked, labels)
    if shares is None:
        reporter.say("prior: none is taken off the teacher's answers")
        return None
    parts, seeds, shards = [], [], readers[0].shards
    caches = [reader.cache for reader in readers]
    sampler = caches[0].manifest.inputs["sampler"]["name"]
    with reporter.track("prior", len(shards), 0, "shard") as advance:
        for shard in shards:
            answers = [it.read_column(it.record(shard), "probabilities") for it in caches]
            parts.append(average_answers(answers))
            seeds.append(caches[0].read_column(caches[0].record(shard), "seed"))
            advance(1)
    drawn = find_drawn(sampler, np.concatenate(seeds))
    prior = fit_prior(np.concatenate(parts)[drawn], shares)
    texts = read_self_generated(caches[0]) if len(caches) == 1 else None
    if asked == AUTO and (why := find_objection(prior, sampler, texts)):
        reporter.say(f"prior: none is taken off, as {why}")
        return None
    told = zip(labels, prior.given, prior.shares, prior.biases, strict=True)
    reporter.say(
        "prior taken off: "
        + ", ".join(f"{name} {had:.1%} -> {has:.1%} ({b:+.2f})" for name, had, has, b in told)
        + f" (mean probability, logit, on {prior.rows:,} rows)"
    )
    if rare := [name for name, had in zip(labels, prior.given, strict=True) if had < RARE]:
        reporter.warn(
            f"the teacher hardly ever gives {', '.join(rare)} on these rows: what is left of its "
            "answers there is mostly noise, with the prior taken off or not"
        )
    if texts is not None:
        own = torch.from_numpy(texts.without(prior).logits).softmax(1).mean(0).numpy()
        if (distance := np.abs(own - prior.shares).sum() / 2) > DOUBTFUL_DISTANCE:
            found = ", ".join(f"{name} {x:.0%}" for name, x in zip(labels, own, strict=True))
            reporter.warn(
                f"the prior of these rows does not hold for texts: on those that the teacher wrote "
                f"itself its answers without it are {found}, {distance:.0%} away from the shares "
                "asked for; try another sampler, or no prior"
            )
    return prior
