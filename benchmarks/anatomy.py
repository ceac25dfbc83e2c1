"""Where the teacher's time goes: the stage around the forward passes, and what is in them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.comparison import Effort, make_ours
from benchmarks.subjects import Rows, draw_rows, make_model, make_tokenizer, write_task
from benchmarks.yardsticks import Floor, Ours, timed
from cache.directory import Cache
from cache.draw import VocabularySampler
from pipeline.console import Console
from stages.teacher import PackedPass, ShardWriter, TeacherConfig
from stages.teacher import stage as stage_one

SHARDS = 4
PARTS = FORWARD, SAMPLING, CLAIMING, WAITING, LOGGING = (
    "forward passes",
    "sampling inputs",
    "claiming shards",
    "waiting for the writer",
    "logging",
)
COMMITTING, WHOLE = "committing", "all"

STAGE = """\
`run_teacher` on {rows} rows in {shards} shards, behind {tokens} tokens, the model read from a
directory; counted is the filling of the cache, from the first claim to the last commit.  The rest
is to be at most 3 %.
"""
PROFILE = """\
{rows} rows behind {tokens} tokens under torch's profiler, by which the run took {slower:.2f} times
as long as without; shares are of the run under it.  The floor did the same batches' products in
turn with it, its times are those of the clock.
"""

PRODUCTS, ATTENTION, COPIES = "products with weights", "attention kernels", "copies and indexing"
OUTSIDE = "between operations: Python, freeing memory"
OPERATIONS = {
    "aten::linear": PRODUCTS,
    "aten::_scaled_dot_product_flash_attention_for_cpu": ATTENTION,
    **dict.fromkeys(
        (
            *("aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous"),
            *("aten::cat", "aten::index", "aten::index_select", "aten::reshape", "aten::repeat"),
        ),
        COPIES,
    ),
}
MODULES = {
    "Norm": "norms",
    "MLP": "activation and gate",
    "RotaryEmbedding": "rotary tables",
    "Attention": "rotations, merging with the prompt",
    "": "residuals, embeddings, label words",
}
"""Part of a module's class name, and what its own operations are called; the first that fits."""


class Stopwatch:
    """Seconds spent in callables of the stage, while the cache is filled.

    Attributes:
        seconds: By what is done; only what the main thread waits for, except ``committing``.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running = False

    def time(self, action: Callable[..., Any], what: str) -> Callable[..., Any]:
        """Return the same callable, timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return action(*args, **kwargs)
            finally:
                if self._running:
                    self.seconds[what] += time.perf_counter() - began

        return call

    @contextmanager
    def watch_stage(self) -> Iterator[None]:
        """Time the parts of whatever stage is run meanwhile."""
        fill = self.time(stage_one.fill_cache, WHOLE)

        def fill_timed(*args: Any) -> Any:
            self._running = True
            try:
                return fill(*args)
            finally:
                self._running = False

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(stage_one, "fill_cache", fill_timed))
            for owner, name, what in (
                (PackedPass, "run", FORWARD),
                (VocabularySampler, "draw_embeddings", SAMPLING),
                (Cache, "claim_next", CLAIMING),
                (Cache, "commit", COMMITTING),
                (ShardWriter, "settle", WAITING),
            ):
                timed_method = self.time(getattr(owner, name), what)
                stack.enter_context(mock.patch.object(owner, name, timed_method))
            yield


class TimedConsole(Console):
    """What the command line reports with, its progress timed."""

    def __init__(self, callbacks: Stopwatch) -> None:
        super().__init__()
        self._watch = callbacks

    @contextmanager
    def track(
        self, title: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        """Show progress as ever."""
        with super().track(title, total, done, unit) as advance:
            yield self._watch.time(advance, LOGGING)


def measure_stage(effort: Effort, folder: Path) -> Iterator[str]:
    """Yield the table of the whole stage's time."""
    shape, tokens = effort.shape, effort.shape.prompts[0]
    yield "\n## The rest of the stage\n"
    yield STAGE.format(rows=effort.stage, shards=SHARDS, tokens=tokens)
    model = make_model(shape)
    model.save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    config = TeacherConfig(
        task=str(write_task(folder / "task.yaml", tokens, shape.longest)),
        model=str(folder / "model"),
        sampler="vocabulary",
        lengths="log-uniform",
        self_generated=0,
        rows=effort.stage,
        shard_rows=effort.stage // SHARDS,
        cache=folder / "cache",
        device="cpu",
        dtype="float32",
        compile="off",
    )
    callbacks = Stopwatch()
    with callbacks.watch_stage():
        run = timed(lambda: stage_one.run_teacher(config, TimedConsole(callbacks)))
    seconds, whole = callbacks.seconds, callbacks.seconds[WHOLE]
    if not seconds[FORWARD]:
        raise RuntimeError("no forward pass was timed: the model's rows cannot be packed")
    rest = whole - seconds[FORWARD]
    yield "| | seconds | % |\n|---|---|---|"
    for name, spent in (
        *((part, seconds[part]) for part in PARTS),
        ("all else", whole - sum(seconds[part] for part in PARTS)),
        ("**all but forward passes**", rest),
    ):
        yield f"| {name} | {spent:.2f} | {100 * spent / whole:.2f} |"
    yield (
        f"\nCommitting, in the background beside it, took {seconds[COMMITTING]:.2f} s; what is "
        "before and after the filling and the same for any number of rows (loading and hashing "
        f"the model, trying batches) {run - whole:.1f} s."
    )


def measure_profile(effort: Effort) -> Iterator[str]:
    """Yield a table for each prompt of where the forward passes' time goes."""
    yield "\n## Where the teacher's time goes, against the floor"
    every = draw_rows(effort.shape, effort.rows)
    for tokens in effort.shape.prompts:
        ours = make_ours(effort.shape, tokens, every)
        rows = every.select(every.choose(effort.profiled))
        floor = Floor(effort.shape, tokens, list(ours.plan(rows)), ours.teacher.positions_around)
        profile_answers(ours, rows)  # what is slow the first time
        floor.run()
        plain, bare = timed(lambda o=ours, r=rows: o.answer(r)), timed(floor.run)
        needed = {PRODUCTS: floor.products, ATTENTION: floor.attention}
        groups, whole = profile_answers(ours, rows)
        thousands = rows.lengths.sum() / 1e3
        yield "\n" + PROFILE.format(rows=len(rows.lengths), tokens=tokens, slower=whole / plain)
        yield "| | ms for 1,000 tokens | % | the floor, ms |\n|---|---|---|---|"
        for name, seconds in sorted(groups.items(), key=lambda group: -group[1]):
            bound = f"{1e3 * needed[name] / thousands:.1f}" if name in needed else ""
            cells = (f"{1e3 * seconds / thousands:.1f}", f"{100 * seconds / whole:.1f}", bound)
            yield f"| {name} | {' | '.join(cells)} |"
        bound = f"{1e3 * bare / thousands:.1f}"
        yield f"| all | {1e3 * whole / thousands:.1f} | 100 | {bound} |"


def profile_answers(ours: Ours, rows: Rows) -> tuple[dict[str, float], float]:
    """Answer rows under the profiler.

    Returns:
        Seconds by what was done, and of all.
    """
    with ExitStack() as stack:
        name_modules(ours.teacher.model, stack.callback)
        prof = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
        whole = timed(lambda: ours.answer(rows))
    groups: defaultdict[str, float] = defaultdict(float)
    for event in prof.events():
        if event.name.startswith("aten::"):
            groups[name_event(event)] += event.self_cpu_time_total / 1e6
    groups[OUTSIDE] = whole - sum(groups.values())
    return groups, whole


def name_modules(model: nn.Module, on_exit: Callable[[Callable[[], None]], object]) -> None:
    """Have every module of a named kind name its operations in a profile."""
    for module in model.modules():
        kind = next(part for part in MODULES if part in type(module).__name__)
        if not kind:
            continue
        label = MODULES[kind]
        open_labels: list[Any] = []

        def enter(*_: Any, label: str = label, opened: list[Any] = open_labels) -> None:
            opened.append(record_function(label))
            opened[-1].__enter__()

        def leave(*_: Any, opened: list[Any] = open_labels) -> None:
            opened.pop().__exit__(None, None, None)

        on_exit(module.register_forward_pre_hook(enter).remove)
        # Also where an exception leaves the module, as the last layer's keys and values do.
        on_exit(module.register_forward_hook(leave, always_call=True).remove)


def name_event(event: Any) -> str:
    """Say what an operation belongs to: by its kind, or by the module that it is in."""
    around = event
    while around is not None:
        if around.name in OPERATIONS:
            return OPERATIONS[around.name]
        if around.name in MODULES.values():
            return str(around.name)
        around = around.cpu_parent
    return MODULES[""]
