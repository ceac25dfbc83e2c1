"""Stage two: a student trained against a cache, and written as a stock transformers directory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cache.reader import CacheReader
from stages import language_model as lm
from stages.architectures import ARCHITECTURES
from stages.caches import find_cache
from stages.card import write_card
from stages.export import build_tokenizer, check_place, write_student
from stages.folding import check_foldable, find_move
from stages.inputs import read_table
from stages.locking import hold_lock
from stages.projection import Projection
from stages.rates import choose_rates
from stages.records import RECORD, read_record
from stages.rows import open_rows
from stages.student import Student, build_encoder, configure_encoder
from stages.task import load_task
from stages.temperature import calibrate_student
from stages.training import TrainingConfig, format_curve, train_student

if TYPE_CHECKING:
    from stages.reporting import Reporter


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
    cache: str | Path = "data/cache"
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
        projection: The written student, temperature included, against the teacher on the held-out
            rows.
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
    task_name = load_task(config.task).name
    cache = find_cache(config.cache, task_name, config.source, config.partial)
    reporter.say(f"cache: {cache.place} ({cache.manifest.label})")
    reader = CacheReader(cache, partial=config.partial)
    if reader.rows < cache.layout.rows:
        reporter.warn(f"training on {reader.rows:,} of {cache.layout.rows:,} rows (--partial)")
    out = _find_place(config, task_name)
    check_place(out)
    # An orphan of a killed `dvc repro` may still be training this very student.
    with hold_lock(out.parent / f".{out.name}.lock", reporter) as waited:
        record = _find_twin(config, reader, out)
        if record is not None:
            who = "the process waited for" if waited else "an earlier run"
            reporter.say(
                f"{who} has trained {out} with these very settings; remove it to train it again"
            )
        else:
            record = _train(config, reader, out, reporter)
    if config.curve is not None:
        config.curve.parent.mkdir(parents=True, exist_ok=True)
        config.curve.write_text(format_curve(record["curve"]))
    found = record["held_out"]
    projection = Projection(**{**found, "balance": tuple(found["balance"])})
    _report(projection, reporter)
    reporter.say(f"student: {out}")
    return StudentResult(out, projection, cache.fingerprint)


def check_students(configs: Sequence[StudentConfig]) -> None:
    """Check what can be known of several students before the first one is trained.

    Raises:
        StageError: One of them cannot be trained, or its place is taken.
    """
    for config in configs:
        task = load_task(config.task)
        check_place(_find_place(config, task.name))
        configure_encoder(config.arch, _choose_init(config)[0], task.max_length)


def _find_place(config: StudentConfig, task: str) -> Path:
    return config.out or Path("data/students") / f"{task}-{Path(config.arch).name}"


def _train(
    config: StudentConfig, reader: CacheReader, out: Path, reporter: Reporter
) -> dict[str, Any]:
    """Train the student, write it, and return what was recorded of it."""
    from accelerate import Accelerator

    cache = reader.cache
    inputs = cache.manifest.inputs
    labels = tuple(label["name"] for label in inputs["task"]["labels"])
    max_length = inputs["task"]["max_length"]
    files = {
        name.removeprefix("tokenizer-"): cache.read_attachment(name)
        for name in cache.manifest.attachments
        if name.startswith("tokenizer-")
    }
    device = lm.choose_device(config.device)
    reporter.say(f"device: {device.value} ({device.reason})")
    on_cpu = torch.device(device.value).type == "cpu"
    precision = "no" if on_cpu else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    reporter.say(f"precision: {'float32' if precision == 'no' else precision + ' mixed'}")
    init, why = _choose_init(config)
    reporter.say(f"student: {config.arch}, {init} start ({why})")
    accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu)
    torch.manual_seed(config.training.seed)
    encoder = build_encoder(config.arch, init, labels, max_length)
    table = read_table(cache)
    move = find_move(encoder, len(table))
    tokenizer = build_tokenizer(files, inputs["start_id"], max_length, move)
    student = Student(encoder, table[inputs["start_id"]], float(table.float().std()))
    check_foldable(student, max_length)
    rates = choose_rates(config.learning_rate, init, student)
    reporter.say(f"learning rate: {rates}")
    training = replace(config.training, learning_rate=rates.rate, encoder_share=rates.encoder_share)
    source = open_rows(
        reader, table.to(accelerator.device), training, config.held_out_rows, accelerator.device
    )
    checkpoint = out.parent / f".{out.name}.checkpoint"
    _, history = train_student(
        student, source, training, accelerator, checkpoint, _identify(config, reader), reporter
    )
    # What is written computes in float32, and that is what is fitted and measured.
    accelerator.unwrap_model(student, keep_fp32_wrapper=False)
    calibration, projection = calibrate_student(student, source, reporter)
    record = {
        "identity": _identify(config, reader),
        "task": inputs["task"],
        "start_id": inputs["start_id"],
        "moved_id": None if move is None else (move.source, move.target),
        "arch": config.arch,
        "init": init,
        "fingerprint": cache.fingerprint,
        "cache": cache.manifest.label,
        "sampler": inputs["sampler"]["name"],
        "teacher": cache.manifest.notes.get("model", ""),
        "rows": reader.rows,
        "shards": reader.shards,
        "training": asdict(training),
        "held_out": asdict(projection),
        "calibration": None if calibration is None else asdict(calibration),
        "curve": history,
    }
    write_student(student, table, tokenizer, record, write_card(record), out)
    checkpoint.unlink(missing_ok=True)
    return record


def _identify(config: StudentConfig, reader: CacheReader) -> str:
    """Hash everything that the student depends on."""
    parts = (
        reader.cache.fingerprint,
        reader.shards,
        config.arch,
        config.init,
        config.learning_rate,
        config.held_out_rows,
        sorted(asdict(config.training).items()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _find_twin(config: StudentConfig, reader: CacheReader, out: Path) -> dict[str, Any] | None:
    """Return the record of a student that another process has just made of the same settings."""
    if not (out / RECORD).is_file():
        return None
    record = read_record(out)
    return record if record.get("identity") == _identify(config, reader) else None


def _choose_init(config: StudentConfig) -> tuple[str, str]:
    if config.init is not None:
        return config.init, "as asked"
    known = ARCHITECTURES.get(config.arch)
    if known is not None and known.hub_id is None:
        return "random", f"{config.arch} has no pretrained weights"
    return "pretrained", "the default where there are pretrained weights"


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
