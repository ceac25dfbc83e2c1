"""Stage two: a student trained on answers, and written as a stock transformers directory."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages import lm
from stages.devices import choose_device, describe_machine, describe_threads, has_bfloat16
from stages.errors import SettingError
from stages.inputs import describe_agreement, read_self_generated
from stages.metrics import DOUBTFUL_ANGLE, Projection, Share, read_share
from stages.records import find_record, hold_lock
from stages.reporter import Reporter
from stages.student.architectures import ARCHITECTURES
from stages.student.card import write_card
from stages.student.config import TRAINER, StudentConfig
from stages.student.data import TrainingData, open_cached_answers, open_rows
from stages.student.folding import check_foldable, check_place, write_student
from stages.student.labelled_texts import open_labelled_texts
from stages.student.loop import format_curve, train_student
from stages.student.model import Student, build_encoder, configure_encoder
from stages.student.optimiser import choose_rates
from stages.student.temperature import calibrate_student
from stages.student.tokenizer import build_tokenizer
from stages.tasks import load_task
from stages.texts import is_read_once


@dataclass(frozen=True)
class StudentResult:
    """A written student."""

    out: Path
    projection: Projection  # the written student, temperature included, on the held-out rows
    fingerprint: str  # the cache's; empty where it was trained on labelled texts
    self_generated: Share | None  # agreement on texts that the teacher wrote


def run_student(config: StudentConfig, reporter: Reporter) -> StudentResult:
    """Train a student and write it.

    Raises:
        StageError: Architecture, cache, texts or settings are not usable, or training diverged.
        CacheError: The cache is incomplete or damaged.
        Interrupted: A stop was asked for; the same command continues.
    """
    task = load_task(config.task)
    if config.texts is None:
        data = open_cached_answers(config, task, reporter)
    else:
        data = open_labelled_texts(config, config.texts, task, reporter)
    out = _find_place(config, task.name)
    check_place(out)
    # An orphan of a killed `dvc repro` may still be training this very student.
    with hold_lock(out.parent / f".{out.name}.lock", reporter) as waited:
        record, identity = find_record(out), _identify(config, data, reporter)
        if record.get("identity") == identity:
            who = "the process waited for" if waited else "an earlier run"
            reporter.say(
                f"{who} has trained {out} with these very settings; remove it to train it again"
            )
        else:
            if record:
                reporter.say(
                    f"{out} is of other settings, or of another version of the training code: it "
                    "is trained anew, and replaced then"
                )
            record = _train(config, data, identity, out, reporter)
    if config.curve is not None:
        config.curve.parent.mkdir(parents=True, exist_ok=True)
        config.curve.write_text(format_curve(record["curve"]))
    projection = Projection(
        **record["held_out"] | {"balance": tuple(record["held_out"]["balance"])}
    )
    reporter.say(
        f"held out: {projection.rows:,} rows, agreement with {data.answered_by} "
        f"{projection.agreement_share}, centred α {projection.centred_angle:.3f} rad, "
        f"α {projection.angle:.3f} rad, c* {projection.c:.3f} (closed form)"
    )
    if record.get("prior_included") is not None:
        plain = record["prior_included"]
        reporter.say(
            f"with the prior put back: agreement {plain['agreement']:.1%}, "
            f"α {plain['angle']:.3f} rad, to which the teacher's leaning alone helps"
        )
    if data.record["fingerprint"] and projection.constant_angle < DOUBTFUL_ANGLE:
        reporter.warn(
            f"a constant has an angle of {projection.constant_angle:.3f} rad to the teacher on "
            "these inputs already: a small α says nothing about the student"
        )
    self_generated = read_share(record.get("self_generated"))
    if self_generated is not None:
        largest = record["self_generated"]["largest_class"]
        reporter.say(describe_agreement(self_generated, largest))
    reporter.say(f"student: {out}")
    return StudentResult(out, projection, data.record["fingerprint"], self_generated)


def check_students(configs: Sequence[StudentConfig]) -> None:
    """Raise StageError where one of several students cannot be trained, before the first is."""
    texts = configs[0].texts
    if len(configs) > 1 and texts is not None and is_read_once(texts):
        raise SettingError(
            f"{texts} is a pipe, which is read once, and {len(configs)} students need it; write "
            "it to a file first"
        )
    for config in configs:
        task = load_task(config.task)
        check_place(_find_place(config, task.name))
        configure_encoder(config.arch, _choose_init(config)[0], task.max_length)


def _find_place(config: StudentConfig, task: str) -> Path:
    return config.out or Path("data/students") / f"{task}-{Path(config.arch).name}"


def _train(
    config: StudentConfig, data: TrainingData, identity: str, out: Path, reporter: Reporter
) -> dict[str, Any]:
    """Train the student, write it, and return what was recorded of it."""
    from accelerate import Accelerator

    device = choose_device(config.device)
    reporter.say(f"device: {device.value} ({device.reason})")
    reporter.say(describe_threads())
    on_cpu = torch.device(device.value).type == "cpu"
    if not on_cpu:
        # accelerate takes the current device, whatever index was asked for.
        torch.cuda.set_device(torch.device(device.value).index or 0)
    precision = "no" if on_cpu else "bf16" if has_bfloat16() else "fp16"
    reporter.say(f"precision: {'float32' if precision == 'no' else precision + ' mixed'}")
    init, why = _choose_init(config)
    reporter.say(f"student: {config.arch}, {init} start ({why})")
    accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu)
    with reporter.track("loading the vocabulary", 1, 0, "table"):
        vocabulary = data.load_vocabulary()
    labels = tuple(label["name"] for label in vocabulary.task["labels"])
    max_length, table = vocabulary.task["max_length"], vocabulary.table
    torch.manual_seed(config.training.seed)
    with reporter.track("loading the encoder", 1, 0, "encoder"):
        encoder = build_encoder(config.arch, init, labels, max_length)
    tokenizer = build_tokenizer(vocabulary.files, vocabulary.start_id, max_length)
    student = Student(encoder, table[vocabulary.start_id], float(table.float().std()))
    check_foldable(student, max_length)
    rate, share, said = choose_rates(config.learning_rate, init, student)
    reporter.say(f"learning rate: {said}")
    training = replace(config.training, learning_rate=rate, encoder_share=share)
    checkpoint = out.parent / f".{out.name}.checkpoint"
    device_table = table.to(accelerator.device)
    with tempfile.TemporaryDirectory() as temporary:
        readers = data.open_readers(vocabulary, Path(temporary))
        most = training.lengths_per_batch * readers[0].cache.layout.chunk_rows
        if training.batch_size > most:
            reporter.warn(
                f"a step takes {most} rows, not {training.batch_size}: give it more lengths"
            )
            training = replace(training, batch_size=most)
        source = open_rows(
            readers, device_table, training, config.held_out_rows, accelerator.device, data.prior
        )
        done = train_student(student, source, training, accelerator, checkpoint, identity, reporter)
    # What is written computes in float32, and that is what is fitted and measured.
    accelerator.unwrap_model(student, keep_fp32_wrapper=False)
    calibration, projection, included = calibrate_student(
        student, source, reporter, data.answered_by, data.prior
    )
    self_generated = None
    if len(readers) > 1:
        reporter.say("self-generated texts: not measured, each prompt has others")
    elif (texts := read_self_generated(readers[0].cache)) is not None:
        texts = texts.without(data.prior)

        @torch.no_grad()
        def answer(ids: np.ndarray) -> np.ndarray:
            reporter.check_stop()
            found = student(device_table[torch.from_numpy(ids).to(device_table.device)])
            logits: np.ndarray = found.float().cpu().numpy()
            return logits

        with reporter.track("self-generated texts", 1, 0, "student"):
            self_generated = texts.measure(answer).to_record()
        self_generated["largest_class"] = texts.largest_class
    record = {
        "identity": identity,
        "trainer": TRAINER,
        "task": dict(vocabulary.task) | dict(data.prompts),
        "start_id": vocabulary.start_id,
        "arch": config.arch,
        "init": init,
        **data.record,
        "training": asdict(training),
        "seconds": {"training": done.seconds},
        "versions": describe_machine(device.value),
        "held_out": asdict(projection),
        "held_out_interval": projection.agreement_share.interval,
        "prior_included": included and {"agreement": included.agreement, "angle": included.angle},
        "self_generated": self_generated,
        "calibration": None if calibration is None else asdict(calibration),
        "curve": done.history,
    }
    with reporter.track("writing the student", 1, 0, "student"):
        write_student(student, table, tokenizer, record, write_card(record), out)
    checkpoint.unlink(missing_ok=True)
    return record


def _identify(config: StudentConfig, data: TrainingData, reporter: Reporter) -> str:
    """Hash everything that the student depends on, the code by its version."""
    local = config.arch not in ARCHITECTURES and Path(config.arch).is_dir()
    encoder = lm.describe_identity(Path(config.arch), reporter) if local else {}
    parts = (
        TRAINER,
        *data.identity,
        config.arch,
        *encoder.values(),
        config.init,
        config.learning_rate,
        config.held_out_rows,
        sorted(asdict(config.training).items()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _choose_init(config: StudentConfig) -> tuple[str, str]:
    if config.init is not None:
        return config.init, "as asked"
    known = ARCHITECTURES.get(config.arch)
    if known is not None and known.hub_id is None:
        return "random", f"{config.arch} has no pretrained weights"
    return "pretrained", "the default where there are pretrained weights"
