"""Stage one: the teacher's answers to random inputs (or to texts), into the cache.

Any number of processes with the same settings share the work; each takes the next free shard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.directory import Cache
from cache.errors import LostClaimError
from cache.layout import Layout, answer_columns
from cache.manifest import Manifest
from cache.philox_torch import describe_backend
from cache.places import parse_place
from cache.reader import CacheReader
from cache.samplers import Sampler
from cache.store import create_or_open
from stages import language_model as lm
from stages.errors import SettingError
from stages.inputs import Inputs, make_attachments, prepare_inputs, read_sampler
from stages.projection import NEARLY_CONSTANT, Projection, ProjectionMeter
from stages.task import Task, load_task
from stages.teacher import Teacher
from stages.verbaliser import Verbaliser, build_verbaliser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.reporting import Reporter

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class TeacherConfig:
    """What the teacher is asked, and where its answers go.

    Attributes:
        task: Name or path of a task.
        model: ``auto``, ``mini``, a hub id or a directory.
        sampler: Name of a sampler; not used with ``texts``.
        rows: Random inputs; not used with ``texts``.
        texts: A file of texts to answer instead of random inputs.
        text_column: Its column or key.
        min_length: Shortest random input, in pieces; the longest is the task's.
        seed: The run's seed.
        cache: Root of the caches.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` or a name of :data:`stages.language_model.DTYPES`.
        chunk_rows: Rows that share one length.
        shard_rows: Rows that are written at once.
        batch_positions: Most positions in one forward pass, unless a single row has more.
    """

    task: str
    model: str = "auto"
    sampler: str = "vocabulary"
    rows: int = 65536
    texts: Path | None = None
    text_column: str = "text"
    min_length: int = 1
    seed: int = 0
    cache: str | Path = "data/cache"
    device: str = "auto"
    dtype: str = "auto"
    chunk_rows: int = 64
    shard_rows: int = 4096
    batch_positions: int = 16384

    def __post_init__(self) -> None:
        for name in ("rows", "min_length", "chunk_rows", "shard_rows", "batch_positions"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}: got {getattr(self, name)}, must be at least 1")
        if self.shard_rows % self.chunk_rows:
            raise SettingError(
                f"shard rows: got {self.shard_rows}, must be a multiple of the chunk rows, "
                f"{self.chunk_rows}"
            )


@dataclass(frozen=True)
class TeacherResult:
    """A complete cache.

    Attributes:
        cache: The cache.
        computed: Rows that this process computed.
        seconds: Time it took for them.
        answers: The teacher's class balance and spread over all rows.
    """

    cache: Cache
    computed: int
    seconds: float
    answers: Projection


def run_teacher(config: TeacherConfig, reporter: Reporter) -> TeacherResult:
    """Fill the cache of these settings, or find it filled.

    Args:
        config: The settings.
        reporter: Told about choices, progress and findings.

    Returns:
        The complete cache.

    Raises:
        StageError: Task, model or texts are not usable.
        CacheError: The cache is damaged, or an answer is not finite.
        Interrupted: A stop was asked for; committed shards stay.
    """
    task = load_task(config.task)
    device = lm.choose_device(config.device)
    model = lm.choose_model(config.model, device.value)
    dtype = lm.choose_dtype(config.dtype, device.value)
    config = replace(config, model=model.value)
    reporter.say(f"model: {model.value} ({model.reason})")
    reporter.say(f"device: {device.value} ({device.reason}), {dtype.value} ({dtype.reason})")
    folder = lm.resolve_model(model.value)
    tokenizer = lm.load_tokenizer(folder)
    verbaliser = build_verbaliser(task, tokenizer)
    _report_words(verbaliser, reporter)
    inputs = prepare_inputs(config, task, tokenizer, reporter)
    identity = lm.describe_identity(folder, reporter)
    manifest = _describe_cache(
        config, task, folder, identity, tokenizer, inputs, device.value, dtype.value
    )

    loaded: list[Teacher] = []

    def teacher() -> Teacher:
        if not loaded:
            began = time.monotonic()
            loaded.append(
                Teacher(lm.load_language_model(folder, device.value, dtype.value), tokenizer, task)
            )
            reporter.say(f"model loaded in {time.monotonic() - began:.1f} s")
            if not loaded[0].prefix_reused:
                reporter.warn(f"the prompt is run with every row: {loaded[0].full_pass_reason}")
        return loaded[0]

    cache = create_or_open(
        parse_place(config.cache) / task.name,
        manifest,
        lambda: make_attachments(inputs, teacher(), tokenizer),
    )
    rows = manifest.layout.rows
    kind = "texts" if config.texts else f"random inputs ({config.sampler})"
    if config.texts is None:
        reporter.say(describe_backend(device.value))
    reporter.say(f"rows: {rows:,} {kind} of {inputs.lengths.min()}-{inputs.lengths.max()} pieces")
    reporter.say(f"cache: {cache.place}")
    began = time.monotonic()
    computed = _fill(cache, config, inputs, teacher, reporter)
    seconds = time.monotonic() - began
    if computed:
        reporter.say(
            f"computed {computed:,} rows in {seconds:.1f} s: {computed / seconds:,.0f} a s"
        )
    else:
        reporter.say("every row was there already")
    answers = measure_answers(CacheReader(cache), len(task.labels))
    _report_answers(answers, task, reporter)
    return TeacherResult(cache, computed, seconds, answers)


def measure_answers(reader: CacheReader, classes: int) -> Projection:
    """Return the teacher's class balance and spread over a whole cache."""
    meter = ProjectionMeter(classes)
    for shard in reader.shards:
        g = torch.from_numpy(reader.read_shard(shard)["probabilities"].copy())
        meter.update(g, g)
    return meter.compute()


def _describe_cache(
    config: TeacherConfig,
    task: Task,
    folder: Path,
    model: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    inputs: Inputs,
    device: str,
    dtype: str,
) -> Manifest:
    verbaliser = build_verbaliser(task, tokenizer)
    rows = len(inputs.lengths)
    identity = {
        "model": dict(model),
        "task": {
            "name": task.name,
            "prompt": task.prompt,
            "suffix": task.suffix,
            "max_length": task.max_length,
            "labels": [
                {
                    "name": label.name,
                    "words": [
                        [word.word, word.token_id]
                        for word in verbaliser.words
                        if word.label == label.name
                    ],
                }
                for label in task.labels
            ],
        },
        "sampler": dict(inputs.identity),
        "start_id": lm.find_start_id(tokenizer),
        "compute": {
            "device": torch.device(device).type,
            "dtype": dtype,
            "attention": lm.choose_attention(folder),
            "batch_positions": config.batch_positions,
        },
    }
    width = None if inputs.tokens is None else inputs.tokens.shape[1]
    layout = Layout(
        rows,
        config.chunk_rows,
        config.shard_rows,
        answer_columns(len(task.labels), width),
    )
    name = inputs.identity["name"]
    notes = {
        "model": config.model,
        "torch": str(torch.__version__),
        "source": str(config.texts) if config.texts else "",
    }
    return Manifest(f"{task.name}, {rows:,} {name}", identity, layout, notes)


def _fill(
    cache: Cache,
    config: TeacherConfig,
    inputs: Inputs,
    teacher: Callable[[], Teacher],
    reporter: Reporter,
) -> int:
    done = sum(len(cache.rows_of(shard)) for shard in cache.committed())
    total = cache.layout.rows
    if done == total:
        return 0
    if done:
        reporter.say(f"continuing: {done:,} of {total:,} rows are there")
    sampler = read_sampler(cache, teacher().table)
    computed, waiting = 0, False
    with reporter.track("teacher", total, done, "row") as advance:
        while True:
            reporter.check_stop()
            claim = cache.claim_next()
            if claim is None:
                if cache.is_complete:
                    return computed
                if not waiting:
                    held = len(cache.live_claims())
                    reporter.say(f"waiting: other live processes hold the last {held} shard(s)")
                    waiting = True
                time.sleep(POLL_SECONDS)
                continue
            with claim:
                began = time.monotonic()
                rows = cache.rows_of(claim.shard)
                columns = _answer_rows(rows, config, inputs, sampler, teacher(), reporter, advance)
                try:
                    cache.commit(claim, columns, time.monotonic() - began)
                except LostClaimError as error:
                    # Suspended, or cut off from the store, for longer than a claim lives.
                    reporter.warn(f"{error}; going on with what is free")
                    continue
                computed += len(rows)


def _answer_rows(
    rows: range,
    config: TeacherConfig,
    inputs: Inputs,
    sampler: Sampler | None,
    teacher: Teacher,
    reporter: Reporter,
    show: Callable[[int], None],
) -> dict[str, np.ndarray]:
    lengths = inputs.lengths[rows.start : rows.stop]
    seeds = inputs.seeds[rows.start : rows.stop]

    def embed(part: np.ndarray, length: int) -> torch.Tensor:
        if sampler is not None:
            return sampler.draw_embeddings(seeds[part], length)
        return teacher.look_up(inputs.tokens[rows.start + part, :length])  # type: ignore[index]

    def advance(count: int) -> None:
        show(count)
        reporter.check_stop()

    logits = teacher.answer_rows(lengths, embed, config.batch_positions, advance)
    columns = {
        "seed": seeds,
        "length": lengths,
        "logits": logits,
        "probabilities": torch.from_numpy(logits).softmax(dim=1).numpy(),
    }
    if inputs.tokens is not None:
        columns["tokens"] = inputs.tokens[rows.start : rows.stop]
    return columns


def _report_words(verbaliser: Verbaliser, reporter: Reporter) -> None:
    for label in verbaliser.labels:
        words = [f"{w.word} → {w.pieces[0]}" for w in verbaliser.words if w.label == label]
        reporter.say(f"label {label}: {', '.join(words)}")
    for line in verbaliser.describe_splits():
        reporter.warn(line)


def _report_answers(answers: Projection, task: Task, reporter: Reporter) -> None:
    shares = ", ".join(
        f"{name} {share:.1%}" for name, share in zip(task.label_names, answers.balance, strict=True)
    )
    reporter.say(f"teacher: {shares}; ‖g‖ {answers.norm_g:.4f}, spread {answers.spread:.4f}")
    if answers.teacher_nearly_constant:
        reporter.warn(
            f"the teacher is nearly constant on these inputs (spread {answers.spread:.4f} < "
            f"{NEARLY_CONSTANT}): a constant student would already have a small angle, and "
            "there is little to learn; try another sampler"
        )
