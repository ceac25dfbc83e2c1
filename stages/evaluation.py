"""How good a classifier is on labelled texts, and how often it says what its teacher says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cache.reader import CacheReader
from cache.samplers import TokenSampler
from stages import language_model as lm
from stages.allocation import keep_freed_memory
from stages.caches import open_named_cache
from stages.classifier import load_classifier
from stages.errors import SettingError, TextDataError
from stages.export import read_record
from stages.inputs import read_sampler, read_table
from stages.preparation import report_forward_pass
from stages.projection import Projection, ProjectionMeter
from stages.prompting import describe_chat
from stages.rows import choose_held_out
from stages.task import Task, load_task, parse_task
from stages.teacher import Teacher, Watch
from stages.texts import encode_texts, read_texts
from stages.tuning import find_tuning

if TYPE_CHECKING:
    from stages.reporting import Reporter


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on what.

    Attributes:
        data: File of texts with labels; ``{task}`` in it stands for the task's name.  None: the
            student alone is measured, on the cached rows that were held out from its training.
        model: A student's directory; None: the teacher alone is measured.
        teacher: ``auto``, ``mini``, a hub id or a directory; None: no teacher.
        task: Name or path of the task; needed without a student, whose own task is used.
        text_column: Column of the text.
        label_column: Column of the label.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: The teacher's number format.
        cache: Root of the caches, for the held-out rows.
        batch_positions: The teacher's most positions in one forward pass; None: found by trial.
        chat: Whether the teacher's prompt goes through its chat template.
        quantise: The teacher's weights: ``none``, ``int8`` or ``fp8``.
    """

    data: Path | None = None
    model: Path | None = None
    teacher: str | None = None
    task: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    device: str = "auto"
    dtype: str = "auto"
    cache: str | Path = "data/cache"
    batch_positions: int | None = None
    chat: bool = False
    quantise: str = "none"


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
        rows: Texts, or held-out rows.
        student: The student's scores.
        teacher: The teacher's scores.
        agreement: Share of rows that both answer alike.
        held_out: The written student against the cached answers.
    """

    rows: int
    student: Scores | None = None
    teacher: Scores | None = None
    agreement: float | None = None
    held_out: Projection | None = None


def evaluate(config: EvaluationConfig, reporter: Reporter) -> Evaluation:
    """Measure a student, a teacher, or both on the texts of a file.

    Raises:
        SettingError: Neither a student nor a teacher with a task is given.
        StageError: A model, the task or the file is not usable.
        Interrupted: A stop was asked for.
    """
    if config.model is None and (config.teacher is None or config.task is None):
        raise SettingError("give --model DIR, or --teacher MODEL and --task TASK, or all three")
    device = lm.choose_device(config.device, several=True)
    main = lm.find_main_device(device.value)
    reporter.say(f"device: {device.value} ({device.reason})")
    if config.data is None:
        found = measure_held_out(config, main, reporter)
        return Evaluation(found.rows, agreement=found.agreement, held_out=found)
    task = load_task(config.task) if config.task else _student_task(config)
    data = Path(str(config.data).replace("{task}", task.name))
    rows = read_texts(data, config.text_column, config.label_column)
    names = task.label_names
    gold = _read_gold([(row.line, row.label) for row in rows], names, data)
    student = teacher = None
    ours = theirs = None
    if config.model is not None:
        classifier = load_classifier(config.model, main)
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
            reporter.say(
                f"{cut:,} of {len(texts):,} texts are cut at {classifier.max_length - 1} pieces"
            )
        student = compute_scores(gold, ours, names, len(rows) / seconds)
    if config.teacher is not None:
        began = time.monotonic()
        theirs = ask_teacher(config, data, task, device, reporter).argmax(axis=1)
        teacher = compute_scores(gold, theirs, names, len(rows) / (time.monotonic() - began))
    agreement = None if ours is None or theirs is None else float((ours == theirs).mean())
    return Evaluation(len(rows), student, teacher, agreement)


@torch.inference_mode()
def measure_held_out(config: EvaluationConfig, device: str, reporter: Reporter) -> Projection:
    """Compare a written student, as stock transformers loads it, with the held-out cached rows.

    Raises:
        SettingError: There is no student, or its cache's inputs are not tokens.
        CacheChoiceError: Its cache is not below the root.
        CacheError: The cache is incomplete or damaged.
    """
    if config.model is None or config.teacher is not None:
        raise SettingError("without --data only a student is measured: give --model and no teacher")
    record = read_record(config.model)
    cache = open_named_cache(config.cache, record["task"]["name"], record["fingerprint"])
    reporter.say(f"no --data: the rows held out of {cache.place} ({cache.manifest.label})")
    sampler = read_sampler(cache, read_table(cache))
    if sampler is not None and not isinstance(sampler, TokenSampler):
        raise SettingError(
            f"the inputs of the sampler {sampler.name} are no tokens, which the written student "
            "reads; give --data FILE"
        )
    classifier = load_classifier(config.model, device)
    # The very shards of the training: more of them since would mean other rows held out.
    reader = CacheReader(cache, shards=record.get("shards"))
    held = choose_held_out(reader.chunks, cache.layout.chunk_rows, record["held_out"]["rows"])
    meter = ProjectionMeter(len(classifier.labels))
    for part in reader.read_chunks(held):
        lengths = part.columns["length"]
        for length in np.unique(lengths):
            alike = lengths == length
            if sampler is None:
                ids = part.columns["tokens"][alike, :length].astype(np.int64)
            else:
                ids = sampler.draw_ids(part.columns["seed"][alike], int(length))
            inputs = np.insert(ids, 0, record["start_id"], axis=1)
            g = torch.from_numpy(part.columns["probabilities"][alike])
            meter.update(g, classifier.answer(torch.from_numpy(inputs)))
    return meter.compute()


def ask_teacher(
    config: EvaluationConfig, data: Path, task: Task, device: lm.Choice, reporter: Reporter
) -> np.ndarray:
    """Return the teacher's class logits on every text of the file, shape (N, K)."""
    choice = lm.choose_model(config.teacher or "auto", device.value)
    dtype = lm.choose_dtype(config.dtype, device.value)
    lm.check_quantisation(config.quantise, device.value, dtype.value)
    folder = lm.resolve_model(choice.value)
    device = lm.place_model(folder, config.device, device, dtype.value, config.quantise)
    reporter.say(
        f"teacher: {choice.value} ({choice.reason}) on {device.value}, {dtype.value} "
        f"({dtype.reason})"
    )
    tokenizer = lm.load_tokenizer(folder)
    if line := describe_chat(tokenizer, config.chat):
        reporter.say(line)
    reporter.say(keep_freed_memory(device.value))
    model = lm.load_language_model(folder, device.value, dtype.value, config.quantise)
    teacher = Teacher(model, tokenizer, task, config.chat)
    report_forward_pass(teacher, reporter)
    texts = encode_texts(
        data, tokenizer, task.max_length, reporter, config.text_column, config.label_column
    )
    tuning = find_tuning(teacher, texts.lengths, config.batch_positions, "off", reporter)
    with reporter.track("teacher", len(texts.lengths), 0, "text") as show:

        def advance(rows: int) -> None:
            show(rows)
            reporter.check_stop()

        return teacher.answer_rows(
            texts.lengths,
            lambda part, length: teacher.look_up(texts.tokens[part, :length]),
            tuning.batch_positions,
            Watch(advance, reporter.warn),
        )


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
    labels = {label["name"]: [word for word, _ in label["words"]] for label in recorded["labels"]}
    return parse_task(recorded | {"labels": labels}, str(config.model), recorded["name"])


def _read_gold(
    rows: Sequence[tuple[int, str | None]], names: Sequence[str], data: Path
) -> np.ndarray:
    columns = {name: column for column, name in enumerate(names)}
    if not rows:
        raise TextDataError(f"{data} holds no texts")
    for line, label in rows:
        if label is None:
            raise TextDataError(f"{data}, line {line}: the text has no label")
        if label not in columns:
            raise TextDataError(
                f"{data}, line {line}: the label {label!r} is none of {', '.join(names)}"
            )
    return np.array([columns[label] for _, label in rows if label is not None])
