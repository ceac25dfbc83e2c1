"""How good a classifier is on labelled texts, and how often it says what its teacher says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stages import language_model as lm
from stages.classifier import load_classifier
from stages.errors import SettingError, TextDataError
from stages.export import read_record
from stages.task import Task, load_task, parse_task
from stages.teacher import Teacher
from stages.texts import encode_texts, read_texts

if TYPE_CHECKING:
    from stages.reporting import Reporter


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on what.

    Attributes:
        data: File of texts with labels.
        model: A student's directory; None: the teacher alone is measured.
        teacher: ``auto``, ``mini``, a hub id or a directory; None: no teacher.
        task: Name or path of the task; needed without a student, whose own task is used.
        text_column: Column of the text.
        label_column: Column of the label.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: The teacher's number format.
        batch_positions: The teacher's most positions in one forward pass.
    """

    data: Path
    model: Path | None = None
    teacher: str | None = None
    task: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    device: str = "auto"
    dtype: str = "auto"
    batch_positions: int = 16384


@dataclass(frozen=True)
class Scores:
    """Accuracy and F1 of one set of answers.

    Attributes:
        accuracy: Share of right answers.
        macro_f1: Mean of the classes' F1.
        classes: Precision, recall, F1 and rows by class name; a class without a right or given
            answer has F1 0.
        texts_per_second: Speed, tokenizer included.
    """

    accuracy: float
    macro_f1: float
    classes: dict[str, dict[str, float]]
    texts_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        rows: Texts.
        student: The student's scores.
        teacher: The teacher's scores.
        agreement: Share of texts that both answer alike.
    """

    rows: int
    student: Scores | None
    teacher: Scores | None
    agreement: float | None


def evaluate(config: EvaluationConfig, reporter: Reporter) -> Evaluation:
    """Measure a student, a teacher, or both on the texts of a file.

    Raises:
        SettingError: Neither a student nor a teacher with a task is given.
        StageError: A model, the task or the file is not usable.
        Interrupted: A stop was asked for.
    """
    if config.model is None and (config.teacher is None or config.task is None):
        raise SettingError("give --model DIR, or --teacher MODEL and --task TASK, or all three")
    device = lm.choose_device(config.device)
    reporter.say(f"device: {device.value} ({device.reason})")
    rows = read_texts(config.data, config.text_column, config.label_column)
    task = load_task(config.task) if config.task else _student_task(config)
    names = task.label_names
    gold = _read_gold([(row.line, row.label) for row in rows], names, config)
    student = teacher = None
    ours = theirs = None
    if config.model is not None:
        classifier = load_classifier(config.model, device.value)
        if classifier.labels != names:
            raise SettingError(
                f"the student's labels are {', '.join(classifier.labels)}, the task's "
                f"{', '.join(names)}"
            )
        texts = [row.text for row in rows]
        began = time.monotonic()
        parts, cut = [], 0
        with reporter.track("student", len(texts), 0, "text") as advance:
            # Large parts, so that like lengths meet; small enough to stop between them.
            for begin in range(0, len(texts), 2048):
                reporter.check_stop()
                answers = classifier.classify(texts[begin : begin + 2048])
                parts.append(answers.probabilities.argmax(axis=1))
                cut += int(answers.cut.sum())
                advance(len(answers.cut))
        ours = np.concatenate(parts)
        seconds = time.monotonic() - began
        if cut:
            reporter.say(f"{cut:,} of {len(texts):,} texts are cut at {classifier.max_length - 1} "
                         "pieces")
        student = compute_scores(gold, ours, names, len(rows) / seconds)
    if config.teacher is not None:
        began = time.monotonic()
        theirs = ask_teacher(config, task, device.value, reporter).argmax(axis=1)
        teacher = compute_scores(gold, theirs, names, len(rows) / (time.monotonic() - began))
    agreement = None if ours is None or theirs is None else float((ours == theirs).mean())
    return Evaluation(len(rows), student, teacher, agreement)


def ask_teacher(
    config: EvaluationConfig, task: Task, device: str, reporter: Reporter
) -> np.ndarray:
    """Return the teacher's class logits on every text of the file, shape (N, K)."""
    choice = lm.choose_model(config.teacher or "auto", device)
    dtype = lm.choose_dtype(config.dtype, device)
    reporter.say(f"teacher: {choice.value} ({choice.reason}), {dtype.value} ({dtype.reason})")
    folder = lm.resolve_model(choice.value)
    tokenizer = lm.load_tokenizer(folder)
    teacher = Teacher(lm.load_language_model(folder, device, dtype.value), tokenizer, task)
    texts = encode_texts(
        config.data, tokenizer, task.max_length, reporter, config.text_column, config.label_column
    )
    logits = np.empty((len(texts.lengths), len(task.labels)), dtype=np.float32)
    with reporter.track("teacher", len(logits), 0, "text") as advance:
        for length in np.unique(texts.lengths):
            alike = np.flatnonzero(texts.lengths == length)
            positions = int(length) + len(teacher.prefix_ids) + len(teacher.suffix_ids)
            step = max(1, config.batch_positions // positions)
            for begin in range(0, len(alike), step):
                reporter.check_stop()
                part = alike[begin : begin + step]
                ids = torch.from_numpy(texts.tokens[part, :length].astype(np.int64))
                logits[part] = teacher.compute_class_logits(teacher.table[ids]).cpu().numpy()
                advance(len(part))
    return logits


def compute_scores(
    gold: np.ndarray, given: np.ndarray, names: Sequence[str], texts_per_second: float
) -> Scores:
    """Compute accuracy, macro-F1 and each class's figures.

    Args:
        gold: Right columns, shape (N,), int.
        given: Answered columns, shape (N,), int.
        names: The classes' names.
        texts_per_second: Passed through.
    """
    classes = {}
    for column, name in enumerate(names):
        right = int(((gold == column) & (given == column)).sum())
        called, there = int((given == column).sum()), int((gold == column).sum())
        classes[name] = {
            "precision": right / called if called else 0.0,
            "recall": right / there if there else 0.0,
            "f1": 2 * right / (called + there) if called + there else 0.0,
            "rows": there,
        }
    return Scores(
        accuracy=float((gold == given).mean()),
        macro_f1=float(np.mean([figures["f1"] for figures in classes.values()])),
        classes=classes,
        texts_per_second=texts_per_second,
    )


def _student_task(config: EvaluationConfig) -> Task:
    if config.model is None:
        raise SettingError("give --task")
    recorded: dict[str, Any] = read_record(config.model)["task"]
    labels = {
        label["name"]: [word for word, _ in label["words"]] for label in recorded["labels"]
    }
    return parse_task(recorded | {"labels": labels}, str(config.model), recorded["name"])


def _read_gold(
    rows: Sequence[tuple[int, str | None]], names: Sequence[str], config: EvaluationConfig
) -> np.ndarray:
    columns = {name: column for column, name in enumerate(names)}
    if not rows:
        raise TextDataError(f"{config.data} holds no texts")
    for line, label in rows:
        if label is None:
            raise TextDataError(f"{config.data}, line {line}: no label {config.label_column!r}")
        if label not in columns:
            raise TextDataError(
                f"{config.data}, line {line}: the label {label!r} is none of {', '.join(names)}"
            )
    return np.array([columns[label] for _, label in rows if label is not None])
