"""How good a classifier is on labelled texts, and how often it says what its teacher says."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages import lm, metrics
from stages.checkpoints import describe_lost
from stages.classify import RAW, Classifier, find_model, is_onnx, load_classifier, model_directory
from stages.devices import (
    ALL,
    Choice,
    choose_device,
    choose_dtype,
    choose_model,
    describe_threads,
    find_main_device,
)
from stages.errors import SettingError, Settings
from stages.evaluate.held_out import measure_held_out
from stages.records import find_record, read_record, read_temperature
from stages.reporter import Reporter
from stages.student import find_teacher_prior
from stages.tasks import Task, describe_chat, fit_tokenizer, load_task, restore_task
from stages.teacher import find_tuning, make_teacher
from stages.texts import TextRow, encode_texts, read_labelled_texts


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on what."""

    data: Path | None = None  # labelled texts, `{task}` is replaced; None: the held-out rows
    model: Path | None = None  # a student's directory or ONNX file
    teacher: str | None = None  # auto, mini, a hub id, a directory or a GGUF file
    task: str | Task | None = None  # name or path; None: the student's
    text_column: str = "text"
    label_column: str = "label"
    label_map: str = ""  # which labels those of the texts stand for, such as `1=good,0=bad`
    device: str = "auto"  # auto, cpu, cuda, cuda:N or all
    dtype: str = "auto"  # the teacher's number format
    cache: str | Path = "data/cache"  # root of the caches: held-out rows, the teacher's prior
    chat: bool = False  # whether the teacher's prompt goes through its chat template
    quantise: str = "none"  # the teacher's weights: none, int8 or fp8
    threshold: float | None = None  # least probability that makes a tag, in [0, 1]; None: all do

    def __post_init__(self) -> None:
        if self.label_map and self.data is None:
            raise SettingError("label map: there are no texts with labels", Settings(("data",)))
        if self.threshold is None:
            return
        if not 0 <= self.threshold <= 1:
            raise SettingError(f"threshold: got {self.threshold:g}, must be in [0, 1]")
        if self.data is None or self.model is None:
            raise SettingError(
                "threshold: give a student and texts, nothing else has a threshold",
                Settings(("model", "data")),
            )


@dataclass(frozen=True)
class Evaluation:
    """What was found; None where it was not measured."""

    rows: int  # texts, or held-out rows
    data: str | None = None  # the file of texts
    student: metrics.Scores | None = None
    teacher: metrics.Scores | None = None  # as it answers
    teacher_without_prior: metrics.Scores | None = None  # the student's, or its newest cache's
    agreement: float | None = None  # share of rows that both answer alike
    held_out: metrics.Projection | None = None  # the written student against the cached answers
    calibration: metrics.Confidence | None = None
    selection: metrics.Selection | None = None  # what the threshold leaves of the student's answers
    task: str | None = None
    model: str | None = None  # the student's directory or file, as it was given
    teacher_name: str | None = None
    teacher_scores: str | None = None  # how label words were scored: word_score, label_score
    agreement_interval: tuple[float, float] | None = None  # of 95 %
    self_generated: metrics.Share | None = None  # agreement on texts that the teacher wrote itself
    identity: str | None = None  # the student's, unlike a later one's in the same directory


def evaluate(config: EvaluationConfig, reporter: Reporter) -> Evaluation:
    """Measure a student, a teacher, or both on the texts of a file, or a student on held-out rows.

    SettingError: this does not go together; StageError: model, task or file are not usable.
    """
    if config.model is None and (config.teacher is None or config.task is None):
        raise SettingError(
            "nothing to measure: give a student, or a teacher and a task",
            Settings(("model", "teacher", "task")),
        )
    if config.model is not None and (found := find_model(config.model)) != config.model:
        reporter.say(f"student: {found}, its directory has ONNX files alone")
        config = replace(config, model=found)
    device = choose_device(config.device, several=True)
    reporter.say(f"device: {device.value} ({device.reason})")
    reporter.say(describe_threads())
    if config.data is not None:
        return _evaluate_texts(config, config.data, device, reporter)
    if config.model is None or config.teacher is not None:
        raise SettingError(
            "without texts only a student is measured: give one, and no teacher",
            Settings(("data", "model", "teacher")),
        )
    classifier = _load_student(config.model, config.device, device, reporter)
    projection, calibration, self_generated = measure_held_out(
        config.model, classifier, config.cache, reporter
    )
    return Evaluation(
        projection.rows,
        agreement=projection.agreement,
        held_out=projection,
        calibration=calibration,
        model=str(config.model),
        agreement_interval=projection.agreement_share.interval,
        self_generated=self_generated,
        identity=read_record(model_directory(config.model)).get("identity"),
    )


def _evaluate_texts(
    config: EvaluationConfig, path: Path, device: Choice, reporter: Reporter
) -> Evaluation:
    record = {} if config.model is None else find_record(model_directory(config.model))
    if config.task is not None or config.model is None:
        task = load_task(config.task or "")
    else:
        task = restore_task(read_record(model_directory(config.model))["task"], str(config.model))
    path = Path(str(path).replace("{task}", task.name))
    names = task.label_names
    rows, gold = read_labelled_texts(
        path, names, config.text_column, config.label_column, config.label_map, reporter
    )

    def score(probabilities: np.ndarray, seconds: float) -> metrics.Scores:
        speed = len(rows) / seconds
        return metrics.compute_scores(gold, probabilities.argmax(axis=1), names, speed)

    student = teacher = taught = selection = agreement = against_teacher = ours = theirs = None
    name = config.teacher
    teacher_ece = None
    temperature = read_temperature(record)
    if config.model is not None:
        classifier = _load_student(config.model, config.device, device, reporter)
        if classifier.labels != names:
            raise SettingError(
                f"the student's labels are {', '.join(classifier.labels)}, the task's "
                f"{', '.join(names)}"
            )
        if classifier.scores == RAW:
            raise SettingError(f"{config.model} gives no probabilities (regression); tag alone can")
        began = time.monotonic()
        ours = _ask_student(classifier, rows, reporter)
        student = score(ours, time.monotonic() - began)
        if config.threshold is not None:
            selection = metrics.select(ours, gold, config.threshold)
    if config.teacher is not None:
        name, prior = choose_model(config.teacher, device.value).value, metrics.read_prior(record)
        if config.model is None:
            prior = find_teacher_prior(config.cache, task, name, config.chat, reporter)
        elif fault := _find_other(record, name, config.chat):
            reporter.warn(f"the student's teacher was {fault}; its prior is not taken off")
            prior = None
        theirs, seconds = _ask_teacher(config, rows, task, device, reporter)
        teacher = score(theirs, seconds)
        teacher_ece = metrics.expected_calibration_error(theirs, gold)
        if prior is not None:
            # What a student was taught, or would be.
            theirs = prior.remove(theirs)
            taught = score(theirs, seconds)
    if ours is not None and theirs is not None:
        same = int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        agreement = metrics.count_share(same, len(rows))
        against_teacher = metrics.measure_calibration(ours, theirs, temperature)
    return Evaluation(
        len(rows),
        str(path),
        student,
        teacher,
        taught,
        None if agreement is None else agreement.value,
        calibration=metrics.Confidence(
            temperature,
            None if ours is None else metrics.measure_calibration(ours, gold, temperature),
            against_teacher,
            teacher_ece,
        ),
        selection=selection,
        task=task.name,
        model=None if config.model is None else str(config.model),
        teacher_name=name,
        teacher_scores=None if teacher is None else f"{task.word_score}, {task.label_score}",
        agreement_interval=None if agreement is None else agreement.interval,
        identity=record.get("identity"),
    )


def _find_other(record: Mapping[str, Any], name: str, chat: bool) -> str:
    """Say what a student's teacher was if it was another model, or asked otherwise."""
    known, asked = record.get("teacher") or name, record.get("chat", chat)
    if Path(known).resolve() != Path(name).resolve():
        return f"{known}, not {name}"
    return "" if asked == chat else f"asked {'through' if asked else 'without'} its chat template"


def _load_student(model: Path, asked: str, device: Choice, reporter: Reporter) -> Classifier:
    # Where nobody chose, torch's device is not onnxruntime's.
    unchosen = is_onnx(model) and asked in ("auto", ALL)
    classifier = load_classifier(model, "auto" if unchosen else find_main_device(device.value))
    if is_onnx(model):
        reporter.say(f"student: onnxruntime on {classifier.device}")
    return classifier


def _ask_student(classifier: Classifier, rows: list[TextRow], reporter: Reporter) -> np.ndarray:
    """Return the student's probabilities, shape (N, K)."""
    parts, cut = [], 0
    with reporter.track("student", len(rows), 0, "text") as advance:
        # Large parts, so that like lengths meet.
        for begin in range(0, len(rows), 2048):
            texts = [row.text for row in rows[begin : begin + 2048]]
            answers = classifier.classify(texts, advance)
            parts.append(answers.probabilities)
            cut += int(answers.cut.sum())
    if cut:
        longest = classifier.max_length - 1
        reporter.say(f"{cut:,} of {len(rows):,} texts are cut at {longest} tokens")
    return np.concatenate(parts)


def _ask_teacher(
    config: EvaluationConfig, rows: list[TextRow], task: Task, device: Choice, reporter: Reporter
) -> tuple[np.ndarray, float]:
    """Load the teacher; returns its probabilities, shape (N, K), and the seconds that they took."""
    choice = choose_model(config.teacher or "auto", device.value)
    dtype = choose_dtype(config.dtype, device.value)
    lm.check_quantisation(config.quantise, device.value, dtype.value)
    folder = lm.resolve_model(choice.value)
    device = lm.place_model(folder, config.device, device, dtype.value, config.quantise)
    reporter.say(
        f"teacher: {choice.value} ({choice.reason}) on {device.value}, {dtype.value} "
        f"({dtype.reason})"
    )
    tokenizer = lm.load_language_tokenizer(folder)
    if line := describe_lost(tokenizer):
        reporter.warn(line)
    if line := describe_chat(tokenizer, config.chat):
        reporter.say(line)
    reporter.say(lm.keep_freed_memory(device.value))
    answers, seconds = [], 0.0
    for asked in task.split():
        # Its output layer is cut down to a prompt's label words, so each prompt loads it anew.
        with reporter.track("loading the model", 1, 0, "model"):
            model = lm.load_language_model(
                folder, device.value, dtype.value, config.quantise, reporter
            )
        teacher = make_teacher(model, tokenizer, asked, config.chat, None, reporter)
        reporter.say(teacher.verbaliser.describe_scores())
        cut = fit_tokenizer(asked, tokenizer, config.chat)
        texts = encode_texts(rows, cut, asked.max_length, reporter)
        tuning = find_tuning(teacher, texts.lengths, None, "off", reporter)
        began = time.monotonic()
        with reporter.track("teacher", len(rows), 0, "text") as advance:
            logits = teacher.answer_texts(
                texts.tokens, texts.lengths, tuning.batch_positions, advance
            )
        seconds += time.monotonic() - began
        answers.append(torch.from_numpy(logits).softmax(dim=1).numpy())
    return metrics.average_answers(answers), seconds
