"""Stage one: the teacher's answers to random inputs (or to texts), into the cache.

Any number of processes with the same settings share the work; each takes the next free shard.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cache.directory import Cache
from cache.opening import create_or_open
from cache.reader import CacheReader
from cache.stores import parse_place
from stages.inputs import (
    MODEL_SAMPLERS,
    SELF_GENERATED,
    describe_difference,
    read_samplers,
    read_self_generated,
)
from stages.reporter import Reporter
from stages.teacher.ability import Ability, judge_ability
from stages.teacher.autotune import Tuning, apply_tuning, find_tuning, read_tuning
from stages.teacher.config import TeacherConfig
from stages.teacher.estimate import Verdict, answer_sample, judge_answers, project, read_answers
from stages.teacher.fill import fill_cache, make_attachments
from stages.teacher.plan import TeacherPlan, prepare_teacher


@dataclass(frozen=True)
class TeacherResult:
    """A complete cache."""

    cache: Cache
    computed: int  # rows, by this process
    verdict: Verdict


def run_teacher(
    config: TeacherConfig, reporter: Reporter, first: Cache | None = None
) -> TeacherResult:
    """Fill the cache of these settings, or find it filled.

    ``first`` is that of a task's first prompt: what the model wrote for its rows is taken over.
    StageError: task, model or texts are not usable; CacheError: the cache is damaged, or an answer
    is not finite.  Committed shards stay where it is interrupted.
    """
    plan = prepare_teacher(config, reporter)
    place = parse_place(config.cache) / plan.task.name
    notes: dict[str, Any] = {}
    tuning: Tuning | None = None

    def tune() -> Tuning:
        lengths, positions = plan.inputs.lengths, config.batch_positions
        return find_tuning(plan.teacher, lengths, positions, config.compile, reporter)

    def attach(kept: Mapping[str, Any]) -> Mapping[str, bytes]:
        nonlocal notes
        # For a cache that lost its texts, as many as it had.
        files, notes = make_attachments(plan, kept.get(SELF_GENERATED, config.self_generated))
        return files

    def note() -> Mapping[str, Any]:
        nonlocal tuning
        tuning = tune()
        return notes | {"tuning": asdict(tuning)}

    cache = create_or_open(place, plan.manifest, attach, note)

    def batch_positions() -> int:
        nonlocal tuning
        if tuning is None and (tuning := read_tuning(cache.manifest.notes)):
            apply_tuning(plan.teacher, tuning, reporter)
        if tuning is None:
            reporter.say("the manifest does not say how large batches are")
            tuning = tune()
        return tuning.batch_positions

    reporter.say(f"rows: {plan.inputs.describe()}")
    reporter.say(f"cache: {cache.place}")
    if tuning is None and (line := describe_difference(cache, config.self_generated)):
        reporter.say(line)
    if not (there := cache.committed()):
        samplers = read_samplers(cache, plan.teacher.table)
        own = read_self_generated(cache)
        _judge(plan, cache, *answer_sample(plan, samplers, batch_positions(), own))
    elif len(there) < cache.shards:
        reporter.say("no sample is answered: the verdict is on the rows that are there")
        _judge(plan, cache, "rows", read_answers(CacheReader(cache, shards=there), reporter))
    began = time.monotonic()
    # Texts that continue the prompt itself are others for each.
    apart = not {*MODEL_SAMPLERS}.isdisjoint(plan.inputs.identity.get("writing", ()))
    texts = CacheReader(first) if first is not None and apart else None
    computed = fill_cache(cache, plan, batch_positions, texts)
    seconds = max(time.monotonic() - began, 1e-9)
    speed = f"computed {computed:,} rows in {seconds:.1f} s: {computed / seconds:,.0f} a s"
    reporter.say(speed if computed else "every row was there already")
    verdict = _judge(plan, cache, "rows", read_answers(CacheReader(cache), reporter))
    return TeacherResult(cache, computed, verdict)


def _judge(plan: TeacherPlan, cache: Cache, what: str, rows: Mapping[str, Any]) -> Verdict:
    """Say what the answers are and what can be learned from them; louder where that is little."""
    reporter, answers = plan.reporter, project(rows)
    names, sampler = plan.task.label_names, plan.inputs.identity["name"]
    verdict = judge_answers(answers, names)
    reporter.say(
        f"teacher, {answers.rows:,} {what}: {verdict.shares}; ‖g‖ {answers.norm_g:.4f}, "
        f"spread {answers.spread:.4f}"
    )
    ability = judge_ability(read_self_generated(cache), rows, sampler, names)
    told: list[tuple[str, Verdict | Ability | None]]
    told = [(f"{answers.rows:,} {what}", verdict), ("its own texts", ability)]
    for about, found in told:
        if found is not None:
            tell = reporter.say if found.level == "fine" else reporter.warn
            tell(f"verdict on {about}: {found.level}: {found.reason}")
    return verdict
