"""Whether a model can do a task, told without a text from elsewhere.

A model is asked about texts that it wrote behind prompts that name a label each.  How often it
gives that label is compared with guessing: the skill is 0 there, and 1 where it always does.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from stages.errors import TrainingError
from stages.inputs import SelfGenerated, find_drawn, find_objection
from stages.metrics import fit_prior

DOUBTFUL_SKILL = 0.15
"""Below it a model hardly knows the labels apart: see benchmarks/choosing.md."""


class Ability(NamedTuple):
    """What is to be expected of a model's answers to texts."""

    level: str  # fine, doubtful or hopeless
    reason: str  # a sentence, with what to do where it is not fine


def judge_ability(
    texts: SelfGenerated | None, rows: Mapping[str, Any], sampler: str, names: tuple[str, ...]
) -> Ability | None:
    """Judge a teacher by its own labelled texts; None: there are none for a label.

    ``rows`` are columns of rows of this sampler that it answered, whose prior may be taken off.
    """
    if texts is None or texts.labels is None or len({*texts.labels.tolist()}) < len(names):
        return None
    try:
        prior = fit_prior(rows["probabilities"][find_drawn(sampler, rows["seed"])])
    except TrainingError as error:
        return Ability("hopeless", str(error))
    taken = None if find_objection(prior, sampler, texts) else prior
    share, given = texts.count_named(taken), texts.without(taken).logits.argmax(axis=1)
    chance = 1 / len(names)
    skill = (share.value - chance) / (1 - chance)
    reason = (
        f"of {len(given):,} texts that it wrote for a label each, the teacher gives that label to "
        f"{share}, where guessing would to {chance:.0%}"
    )
    if taken is not None:
        reason += f", and with its prior left in to {texts.count_named(None).value:.1%}"
    counts = np.bincount(given, minlength=len(names))
    never = [name for name, count in zip(names, counts, strict=True) if not count]
    level, finding = "fine", "it knows the labels apart"
    if not texts.knows_labels(taken):
        level, finding = "hopeless", "it does not know the labels apart"
    elif skill < DOUBTFUL_SKILL or never:
        level, finding = "doubtful", "it hardly knows the labels apart"
    if never:
        finding += f" and never gives {', '.join(map(repr, never))}"
    if level != "fine":
        finding += "; try another prompt, other label words, the chat template or a larger model"
    return Ability(level, f"{reason}: {finding}")
