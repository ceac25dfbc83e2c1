"""Ways of asking a model, ranked by texts that it wrote for a label each.

The label that the model was to write for is the truth.  How well that ranks ways of asking, held
against real texts, is in benchmarks/choosing.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cache.draw import mix_seeds
from stages.errors import ModelError, SettingError, TaskError
from stages.inputs import SamplingSettings, SelfGenerated, build_samplers
from stages.metrics import Share, fit_prior
from stages.reporter import Reporter
from stages.tasks import BALANCED, NONE, Task, load_task
from stages.teacher.ability import DOUBTFUL_SKILL
from stages.teacher.config import TeacherConfig
from stages.teacher.estimate import FEW_CONTEXTS
from stages.teacher.fill import BATCH_POSITIONS, TEXT_SEED, answer_inputs, compute_thresholds
from stages.teacher.generation import choose_labels, write_texts
from stages.teacher.plan import make_teacher, prepare_teacher

LONGEST, TOP_P = 96, 0.95  # tokens of a written text and of a row at most; as texts are drawn


@dataclass(frozen=True)
class Candidate:
    """A way of asking, and the share of the texts whose label is named then."""

    task: Task  # of one prompt, whose prior is none or balanced
    chat: bool
    share: Share


def rank_candidates(
    config: TeacherConfig, variants: Sequence[Task], reporter: Reporter
) -> list[Candidate]:
    """Have a model write texts, ask about them in every way, and return the ways, the best first.

    Ways are the task's prompts and its variants, through the chat template and not where there is
    one, with the prior of ``config.rows`` random rows taken off and not.  StageError: the task, the
    model or the number of texts, ``self_generated``, is not usable.
    """
    task = load_task(config.task)
    task.choose_write(True)  # refused before the model is loaded
    short = min(LONGEST, task.max_length)
    asked = [replace(each, max_length=short) for each in (*task.split(), *variants)]
    plan = prepare_teacher(replace(config, task=asked[0], sampler="unigram"), reporter)
    first, found = plan.teacher, list[Candidate]()
    samplers = build_samplers(
        "unigram", first.table, compute_thresholds(plan.inputs, first, reporter, FEW_CONTEXTS)
    )
    seeds, tokens = mix_seeds(config.seed, TEXT_SEED, config.self_generated), None
    wanted = choose_labels(seeds, len(task.labels))
    if len({*wanted.tolist()}) < len(task.labels):
        raise SettingError(f"texts: {len(wanted)} are not of every label; have more written")
    ways = [(x, chat) for chat in (True, False)[not first.tokenizer.chat_template :] for x in asked]
    with first.suspend():
        for number, (each, chat) in enumerate(ways, 1):
            # As the plan has it: a model that was trained on the task writes behind its prompt.
            each = replace(each, write=plan.task.write, write_labelled=plan.task.write_labelled)
            try:
                teacher = make_teacher(first.model, first.tokenizer, each, chat, None, reporter)
            except (TaskError, ModelError) as error:
                reporter.warn(f"left out: {error}")
                continue
            if tokens is None:
                labelled = SamplingSettings(labelled=True, top_p=TOP_P)
                with reporter.track("texts", len(seeds) * short, 0, "token") as advance:
                    tokens = write_texts(teacher, seeds, labelled, short, advance)
            lengths = (tokens >= 0).sum(axis=1).astype(np.int32)
            title = f"way {number} of {len(ways)}"
            with reporter.track(title, len(tokens) + config.rows, 0, "row") as advance:
                logits = teacher.answer_texts(tokens, lengths, BATCH_POSITIONS, advance)
                rows = answer_inputs(plan.inputs, samplers, teacher, BATCH_POSITIONS, advance)
            teacher.release()
            texts = SelfGenerated(tokens, lengths, logits, wanted)
            for name, prior in ((BALANCED, fit_prior(rows["probabilities"])), (NONE, None)):
                way = replace(each, prior=name, max_length=task.max_length)
                found.append(Candidate(way, chat, texts.count_named(prior)))
    found.sort(key=lambda each: -each.share.value)
    best, chance = found[0].share, 1 / len(task.labels)
    if best.low <= chance or best.value - chance < DOUBTFUL_SKILL * (1 - chance):
        reporter.warn(
            f"this order says little: the best names the label of {best} of the texts, "
            f"guessing {chance:.0%}; the model does not write texts of its labels (see the "
            "task's `write`), or does not know them apart"
        )
    return found
