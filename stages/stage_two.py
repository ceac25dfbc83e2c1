"""Stage two: a student trained against a cache, and written as a stock transformers directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.directory import Cache
from cache.reader import CacheReader, Slice
from cache.samplers import Sampler
from cache.store import CacheSummary, list_caches, open_cache
from stages import language_model as lm
from stages.caches import open_named_cache
from stages.card import write_card
from stages.errors import CacheChoiceError, TrainingError
from stages.export import build_tokenizer, write_student
from stages.projection import Projection
from stages.stage_one import read_sampler, read_table
from stages.student import Student, build_encoder
from stages.task import load_task
from stages.training import Rows, RowSource, TrainingConfig, format_curve, train_student

if TYPE_CHECKING:
    from stages.reporting import Reporter

SMALL_WIDTH = 512
"""Encoders narrower than this learn at a higher rate from a random start."""


@dataclass(frozen=True)
class StudentConfig:
    """Which student, trained on what, written where.

    Attributes:
        task: Name or path of the task whose cache is wanted.
        arch: A short name, a hub id or a directory.
        init: ``pretrained`` or ``random``; None: random where there are no pretrained weights.
        cache: Root of the caches.
        source: A fingerprint's first digits, a cache directory, or the teacher's summary file;
            None: the task's only complete cache.
        partial: Whether to train on an incomplete cache.
        learning_rate: None: by size and start.
        held_out_rows: Rows kept out of training, at most a tenth of all.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        out: The student's directory; None: ``data/students/<task>-<arch>``.
        curve: CSV file of the curve; None: inside the student's directory alone.
        training: The rest of how it is trained.
    """

    task: str
    arch: str
    init: str | None = None
    cache: Path = Path("data/cache")
    source: str | None = None
    partial: bool = False
    learning_rate: float | None = None
    held_out_rows: int = 1024
    device: str = "auto"
    out: Path | None = None
    curve: Path | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class StudentResult:
    """A written student.

    Attributes:
        out: Its directory.
        projection: Student against teacher on the held-out rows.
        fingerprint: The cache's.
    """

    out: Path
    projection: Projection
    fingerprint: str


def run_student(config: StudentConfig, reporter: Reporter) -> StudentResult:
    """Train a student and write it.

    Raises:
        StageError: Architecture, cache or settings are not usable, or training diverged.
        CacheError: The cache is incomplete or damaged.
        Interrupted: A stop was asked for; the same command continues.
    """
    from accelerate import Accelerator

    task_name = load_task(config.task).name
    cache = find_cache(config, task_name)
    inputs = cache.manifest.inputs
    reporter.say(f"cache: {cache.path} ({cache.manifest.label})")
    reader = CacheReader(cache, partial=config.partial)
    if reader.rows < cache.layout.rows:
        reporter.warn(f"training on {reader.rows:,} of {cache.layout.rows:,} rows (--partial)")
    device = lm.choose_device(config.device)
    reporter.say(f"device: {device.value} ({device.reason})")
    labels = tuple(label["name"] for label in inputs["task"]["labels"])
    max_length = inputs["task"]["max_length"]
    init, why = _choose_init(config)
    reporter.say(f"student: {config.arch}, {init} start ({why})")
    precision = "no"
    if torch.device(device.value).type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    reporter.say(f"precision: {'float32' if precision == 'no' else precision + ' mixed'}")
    accelerator = Accelerator(
        mixed_precision=precision, cpu=torch.device(device.value).type == "cpu"
    )
    torch.manual_seed(config.training.seed)
    encoder = build_encoder(config.arch, init, labels, max_length)
    table = read_table(cache)
    student = Student(encoder, table[inputs["start_id"]], float(table.float().std()))
    training = config.training
    if config.learning_rate is None:
        rate, reason = _choose_rate(init, student.adapter.out_features)
        reporter.say(f"learning rate: {rate:g} ({reason})")
    else:
        rate = config.learning_rate
    training = replace(training, learning_rate=rate)
    source = open_rows(
        reader, table.to(accelerator.device), training, config.held_out_rows, accelerator.device
    )
    out = config.out or Path("data/students") / f"{task_name}-{Path(config.arch).name}"
    checkpoint = out.parent / f".{out.name}.checkpoint"
    identity = f"{cache.fingerprint} {reader.shards} {config.arch} {init} {config.held_out_rows}"
    digest = hashlib.sha256(identity.encode()).hexdigest()
    projection, history = train_student(
        student, source, training, accelerator, checkpoint, digest, reporter
    )
    _report(projection, reporter)
    record = {
        "task": inputs["task"],
        "start_id": inputs["start_id"],
        "arch": config.arch,
        "init": init,
        "fingerprint": cache.fingerprint,
        "cache": cache.manifest.label,
        "sampler": inputs["sampler"]["name"],
        "teacher": cache.manifest.notes.get("model", ""),
        "rows": reader.rows,
        "training": asdict(training),
        "held_out": asdict(projection),
    }
    files = {
        name.removeprefix("tokenizer-"): cache.read_attachment(name)
        for name in cache.manifest.attachments
        if name.startswith("tokenizer-")
    }
    tokenizer = build_tokenizer(files, inputs["start_id"], max_length)
    write_student(student, table, tokenizer, record, write_card(record), out)
    if config.curve is not None:
        config.curve.parent.mkdir(parents=True, exist_ok=True)
        config.curve.write_text(format_curve(history))
    checkpoint.unlink(missing_ok=True)
    reporter.say(f"student: {out}")
    return StudentResult(out, projection, cache.fingerprint)


def open_rows(
    reader: CacheReader,
    table: torch.Tensor,
    training: TrainingConfig,
    held_out_rows: int,
    device: torch.device,
) -> RowSource:
    """Turn a cache into the training loop's rows, some of them held out.

    Args:
        reader: The cache.
        table: The language model's embedding table, shape (V, d_T), on the device to train on.
        training: How the rows are read.
        held_out_rows: Rows to keep out, as whole chunks, at most a tenth of all.
        device: Device to train on.

    Raises:
        TrainingError: The cache is a single chunk.
    """
    sampler = read_sampler(reader.cache, table)
    held = choose_held_out(reader.chunks, reader.cache.layout.chunk_rows, held_out_rows)
    kept = [_to_rows(part, sampler, table, device) for part in reader.read_chunks(held)]

    def open_stream(consumed: int) -> Iterator[Rows]:
        slices = reader.stream_slices(
            training.rows // training.slices,
            seed=training.seed,
            start=consumed,
            exclude_chunks=frozenset(held),
        )
        return (_to_rows(part, sampler, table, device) for part in slices)

    def held_out() -> Iterable[Rows]:
        return kept

    return RowSource(open_stream, held_out, kept[0].probabilities.shape[1])


def choose_held_out(chunks: tuple[int, ...], chunk_rows: int, rows: int) -> list[int]:
    """Choose chunks to hold out, evenly spaced, so that every student of a cache has the same.

    Raises:
        TrainingError: There are fewer than two chunks.
    """
    if len(chunks) < 2:
        raise TrainingError(
            f"the cache is {len(chunks)} chunk(s) of {chunk_rows} rows; training needs at least "
            "two, one of them held out: use more rows, or smaller chunks"
        )
    count = max(1, min(-(-rows // chunk_rows), len(chunks) // 10))
    return [chunks[int((k + 0.5) * len(chunks) / count)] for k in range(count)]


def find_cache(config: StudentConfig, task_name: str) -> Cache:
    """Find the cache to train on.

    Raises:
        CacheChoiceError: None fits, or several do.
        CacheError: The cache named cannot be opened.
    """
    if config.source is not None:
        path = Path(config.source)
        if path.is_file():
            try:
                pointer = json.loads(path.read_text())
                return open_cache(config.cache / pointer["directory"], pointer["fingerprint"])
            except (ValueError, KeyError, TypeError) as error:
                raise CacheChoiceError(f"{path} is no summary of a teacher") from error
        if path.is_dir():
            return open_cache(path)
        return open_named_cache(config.cache, task_name, config.source)
    found = [summary for summary in list_caches(config.cache / task_name) if summary.manifest]
    fitting = [summary for summary in found if summary.is_complete or config.partial]
    if len(fitting) == 1 or (not fitting and len(found) == 1):
        # Of an incomplete one its reader says how much is there and what to do.
        return open_cache((fitting or found)[0].path)
    if not fitting:
        raise CacheChoiceError(
            f"no complete cache of task {task_name} below {config.cache} ({len(found)} "
            f"incomplete); run 'pipeline teacher --task {config.task}' first"
        )
    lines = "\n".join(f"  {_describe(summary)}" for summary in fitting)
    raise CacheChoiceError(
        f"{len(fitting)} caches of task {task_name} below {config.cache}; name one with "
        f"--from and its first digits:\n{lines}"
    )


def _describe(summary: CacheSummary) -> str:
    manifest = summary.manifest
    if manifest is None:
        return f"{summary.path}: {summary.error}"
    return (
        f"{manifest.fingerprint[:12]}  {manifest.label}, seed "
        f"{manifest.inputs['sampler'].get('seed', '-')}, {manifest.notes.get('model', '?')}, "
        f"{summary.committed}/{summary.shards} shards, {manifest.created}"
    )


def _to_rows(
    part: Slice, sampler: Sampler | None, table: torch.Tensor, device: torch.device
) -> Rows:
    probabilities = torch.from_numpy(part.columns["probabilities"].copy()).to(device)
    lengths = part.columns["length"]
    longest = int(lengths.max())
    if sampler is not None:
        return Rows(sampler.draw_embeddings(part.columns["seed"], longest), probabilities)
    tokens = torch.from_numpy(part.columns["tokens"][:, :longest].astype(np.int64)).to(device)
    embeddings = table[tokens.clamp(min=0)]
    if int(lengths.min()) == longest:
        return Rows(embeddings, probabilities)
    return Rows(embeddings, probabilities, (tokens >= 0).long())


def _choose_init(config: StudentConfig) -> tuple[str, str]:
    from stages.student import ARCHITECTURES

    if config.init is not None:
        return config.init, "as asked"
    known = ARCHITECTURES.get(config.arch)
    if known is not None and known.hub_id is None:
        return "random", f"{config.arch} has no pretrained weights"
    return "pretrained", "the default where there are pretrained weights"


def _choose_rate(init: str, width: int) -> tuple[float, str]:
    if init == "pretrained":
        return 5e-5, "pretrained start"
    if width < SMALL_WIDTH:
        return 2e-3, f"random start, width {width}"
    return 1e-4, f"random start, width {width}"


def _report(projection: Projection, reporter: Reporter) -> None:
    reporter.say(
        f"held out: {projection.rows:,} rows, agreement {projection.agreement:.1%}, "
        f"α {projection.angle:.3f} rad, centred α {projection.centred_angle:.3f} rad, "
        f"c* {projection.c:.3f} (closed form)"
    )
    if projection.teacher_nearly_constant:
        reporter.warn(
            f"the teacher is nearly constant on these inputs (spread {projection.spread:.4f}): "
            "the angle says nothing about the student"
        )
