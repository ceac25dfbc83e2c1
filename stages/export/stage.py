"""A student's files for others: the formats asked for, checked, measured, in one directory."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.checkpoints import load_tokenizer
from stages.classify import Classifier, is_onnx, load_onnx_classifier
from stages.classify.torch_classifier import load_model, wrap_model
from stages.devices import describe_threads
from stages.errors import ExportError, SettingError, Settings
from stages.export import onnx
from stages.export.comparison import MOST_ROUNDS, ROUND, ComparedFile, compare, draw_texts
from stages.records import RECORD, publish_directory, read_record
from stages.reporter import Reporter
from stages.student import write_card

FORMATS = ("onnx", "transformers")
"""What weights can be written as; configuration, tokenizer, record and card are written for all."""

FLOAT32, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"
"""Where optimum and transformers.js look."""

COMMON = ("config.json", "tokenizer.json", "tokenizer_config.json")
"""What belongs to every format."""

SCORES, CLASS_SCORES = ("accuracy", "macro_f1"), ("precision", "recall", "f1")


@dataclass(frozen=True)
class ExportConfig:
    """Which student, in which formats, written where."""

    model: Path  # the student's directory
    formats: tuple[str, ...] = ("onnx",)  # names of :data:`FORMATS`
    int8: bool = False  # whether to write weights in 8 bits as well
    # None: the student's name with -onnx, or -export where no ONNX file is asked for
    out: Path | None = None
    metrics: tuple[Path, ...] = ()  # JSON files of evaluations, for the model card


@dataclass(frozen=True)
class Export:
    """A written export: its directory, and its files that were compared with the student."""

    out: Path
    files: tuple[ComparedFile, ...]


def export_student(config: ExportConfig, reporter: Reporter) -> Export:
    """Write a student in the formats asked for, whole or not at all, and measure each.

    SettingError: what was asked for does not go together; ExportError: it is no student, cannot be
    written so or there, or what was written answers otherwise; ModelError: it cannot be loaded.
    """
    for name in config.formats:
        if name not in FORMATS:
            raise SettingError(f"format {name!r}: must be one of {', '.join(FORMATS)}")
    as_onnx, as_weights = (name in config.formats for name in FORMATS)
    if config.int8 and not as_onnx:
        raise SettingError(
            "8 bits are of an ONNX file; ask for the format onnx as well", Settings(("formats",))
        )
    if is_onnx(config.model):
        raise SettingError(f"{config.model} is an export; give the student's directory")
    record = read_record(config.model)
    ending = "onnx" if as_onnx else "export"
    out = config.out or config.model.with_name(f"{config.model.resolve().name}-{ending}")
    _check_place(out, config.model)
    evaluations = [_read_metrics(path, record) for path in config.metrics]
    reporter.say(describe_threads())
    files = []
    try:
        with publish_directory(out) as folder:
            for name in COMMON:
                if not (config.model / name).is_file():
                    raise ExportError(f"{config.model} has no {name}")
                shutil.copyfile(config.model / name, folder / name)
            if as_weights:
                _copy_weights(config.model, folder)
            if as_onnx:
                files = _write_onnx(config, folder, reporter)
            record["exports"] = [asdict(each) for each in files]
            if evaluations:
                record["evaluations"] = evaluations
            # Whoever takes it need not know how this machine's directories are called.
            for key in ("teacher", "arch", "words_of", "texts"):
                _shorten(record, key)
            card = write_card(record, as_weights)
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            (folder / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ExportError(f"cannot write {out}: {where}{error.strerror or error}") from error
    return Export(out, tuple(files))


def _copy_weights(student: Path, folder: Path) -> None:
    """Copy the safetensors as they are, and the index of those in parts."""
    files = sorted(student.glob("*.safetensors*"))
    if not files:
        raise ExportError(f"{student} has no weights (model.safetensors)")
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _write_onnx(config: ExportConfig, folder: Path, reporter: Reporter) -> list[ComparedFile]:
    """Write an ONNX file in float32, quantise it where asked for, and compare each; check that."""
    onnx.check_packages()
    file, small = folder / FLOAT32, folder / INT8
    file.parent.mkdir()
    reporter.say(f"writing {FLOAT32} (float32, opset {onnx.OPSET}, any batch and length)")
    with reporter.track(f"writing {FLOAT32}", 1, 0, "file"):
        model = load_model(config.model)
        onnx.export_onnx(model, file)
    reporter.check_stop()
    written: dict[str, Classifier] = {FLOAT32: load_onnx_classifier(file, "cpu", threads=1)}
    if config.int8:
        reporter.say(f"writing {INT8} (weights in 8 bits)")
        with reporter.track(f"writing {INT8}", 1, 0, "file"):
            onnx.quantise_onnx(file, small)
        written[INT8] = load_onnx_classifier(small, "cpu", threads=1)
    reporter.check_stop()
    student = wrap_model(model, load_tokenizer(config.model), "cpu")
    longest = max(1, student.max_length - 1)
    texts = draw_texts(folder / "tokenizer.json", ROUND * MOST_ROUNDS, longest)
    compared = compare(student, folder, written, texts, reporter)
    if not (worst := compared[0].largest_difference) <= onnx.TOLERANCE:
        raise ExportError(
            f"the ONNX file differs from the student by {worst:.2g} in probability, more than "
            f"{onnx.TOLERANCE:g}; nothing was kept"
        )
    return compared


def _check_place(out: Path, model: Path) -> None:
    here, source = out.resolve(), model.resolve()
    if here.is_relative_to(source) or source.is_relative_to(here):
        raise ExportError(
            f"{out} is the student's own place; choose another directory", Settings(("out",))
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    with suppress(ExportError):
        if "exports" in read_record(out):
            return
    raise ExportError(
        f"{out} is there and is no export; remove it, or choose another", Settings(("out",))
    )


def _read_metrics(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"cannot read the metrics {path}: {error}") from error
    if not _is_evaluation(read):
        raise SettingError(f"{path} holds no metrics of an evaluation")
    for key, wanted in (("task", record["task"]["name"]), ("identity", record.get("identity"))):
        if None not in (read.get(key), wanted) and read[key] != wanted:
            raise SettingError(
                f"{path} was measured on another student: its {key} is {read[key]}, that of the "
                f"one to be exported {wanted}"
            )
    if "data" in read:
        read["data"] = Path(str(read["data"])).name
    for key in ("model", "teacher_name"):
        _shorten(read, key)
    return read


def _shorten(found: dict[str, Any], key: str) -> None:
    """Leave a path's last part where there is something at the path."""
    if found.get(key) and Path(found[key]).exists():
        found[key] = Path(found[key]).resolve().name


def _is_evaluation(found: Any) -> bool:
    """Whether everything is there that the card reads of an evaluation."""
    try:
        # Its student is absent where a teacher was measured alone, or the held-out rows were.
        scores = [found[whom] for whom in ("student", "teacher") if whom in found]
        figures = [found["rows"], *(each[key] for each in scores for key in SCORES)]
        for row in found["student"]["classes"].values() if "student" in found else ():
            figures += [row[key] for key in (*CLASS_SCORES, "rows")]
    except (KeyError, TypeError, AttributeError):
        return False
    return all(isinstance(figure, int | float) for figure in figures)
