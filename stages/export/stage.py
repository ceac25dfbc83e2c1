"""A student's files for others: the formats asked for, checked, measured, in one directory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.classify import is_onnx, load_onnx_classifier
from stages.classify.torch_classifier import load_model, wrap_model
from stages.errors import ExportError, SettingError
from stages.export import onnx as onnx_export
from stages.export.comparison import MOST_ROUNDS, ROUND, Comparison, compare, draw_texts
from stages.loading import load_tokenizer
from stages.records import RECORD, read_record
from stages.student import write_card

if TYPE_CHECKING:
    from stages.reporter import Reporter

FORMATS = ("onnx", "transformers")

COMMON = ("config.json", "tokenizer.json", "tokenizer_config.json")
"""What belongs to every format."""

FLOAT32, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"
"""Where optimum and transformers.js look."""

SCORES, CLASS_SCORES = ("accuracy", "macro_f1"), ("precision", "recall", "f1")


@dataclass(frozen=True)
class ExportConfig:
    """Which student, in which formats, written where.

    Attributes:
        model: The student's directory.
        formats: Of :data:`FORMATS`.
        int8: Whether to write an ONNX file with weights in 8 bits as well.
        out: Directory to write; None: the student's name with ``-onnx``, or with ``-export`` where
            no ONNX file is asked for.
        metrics: JSON files of `pipeline evaluate --metrics`, for the model card.
    """

    model: Path
    formats: tuple[str, ...] = ("onnx",)
    int8: bool = False
    out: Path | None = None
    metrics: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file of a student.

    Attributes:
        file: Its path below the export's directory.
        bytes: Its size, weights beside it included.
        found: It beside the student in torch.
    """

    file: str
    bytes: int
    found: Comparison


@dataclass(frozen=True)
class Export:
    """A written export.

    Attributes:
        out: Its directory.
        files: Its ONNX files.
    """

    out: Path
    files: tuple[ExportedFile, ...]


def export_student(config: ExportConfig, reporter: Reporter) -> Export:
    """Write a student in the formats asked for, whole or not at all, and measure each.

    Raises:
        SettingError: What was asked for does not go together.
        ExportError: It is no student, cannot be written so or there, or what was written does not
            give the student's probabilities.
        ModelError: The student cannot be loaded.
        Interrupted: A stop was asked for.
    """
    formats = tuple(dict.fromkeys(config.formats))
    for form in formats:
        if form not in FORMATS:
            raise SettingError(f"format {form!r}: must be one of {', '.join(FORMATS)}")
    if config.int8 and "onnx" not in formats:
        raise SettingError("--int8 is of an ONNX file; give --format onnx as well")
    if is_onnx(config.model):
        raise SettingError(f"{config.model} is an export; give the student's directory")
    record = read_record(config.model)
    ending = "onnx" if "onnx" in formats else "export"
    out = config.out or config.model.with_name(f"{config.model.resolve().name}-{ending}")
    _check_place(out, config.model)
    evaluations = [_read_metrics(path, record) for path in config.metrics]
    if "onnx" in formats:
        onnx_export.check_packages()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "export"
            folder.mkdir()
            for file in _list_files(config.model, "transformers" in formats):
                shutil.copyfile(file, folder / file.name)
            files = _write_onnx(config, folder, reporter) if "onnx" in formats else ()
            record["exports"] = [
                {"file": each.file, "bytes": each.bytes, **asdict(each.found)} for each in files
            ]
            if evaluations:
                record["evaluations"] = evaluations
            # Whoever takes it need not know how this machine's directories are called.
            for key in ("teacher", "arch", "words_of", "texts"):
                _shorten(record, key)
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            (folder / "README.md").write_text(
                write_card(record, "transformers" in formats), encoding="utf-8"
            )
            for path in (*folder.rglob("*"), folder):
                _sync(path)
            if out.exists():
                out.rename(Path(temporary) / "replaced")
            folder.rename(out)
            _sync(out.parent)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ExportError(f"cannot write {out}: {where}{error.strerror or error}") from error
    return Export(out, files)


def _write_onnx(config: ExportConfig, folder: Path, reporter: Reporter) -> tuple[ExportedFile, ...]:
    model = load_model(config.model)
    original = wrap_model(model, load_tokenizer(config.model), "cpu")
    (folder / FLOAT32).parent.mkdir()
    reporter.say(f"writing {FLOAT32} (float32, opset {onnx_export.OPSET}, any batch and length)")
    onnx_export.export_onnx(model, folder / FLOAT32)
    reporter.check_stop()
    others = {FLOAT32: load_onnx_classifier(folder / FLOAT32, "cpu", threads=1)}
    worst = onnx_export.check_onnx(original, others[FLOAT32], model.config.vocab_size)
    reporter.say(
        f"checked: random ids, padded and unpadded, differ by at most {worst:.1e} in probability "
        f"from the student (allowed: {onnx_export.TOLERANCE:g})"
    )
    if config.int8:
        reporter.say(f"writing {INT8} (weights in 8 bits)")
        onnx_export.quantise_onnx(folder / FLOAT32, folder / INT8)
        others[INT8] = load_onnx_classifier(folder / INT8, "cpu", threads=1)
    reporter.check_stop()
    texts = draw_texts(
        folder / "tokenizer.json", ROUND * MOST_ROUNDS, max(1, original.max_length - 1)
    )
    found = compare(original, others, texts, reporter)
    return tuple(
        ExportedFile(name, _measure_size(folder / name), comparison)
        for name, comparison in found.items()
    )


def _check_place(out: Path, model: Path) -> None:
    here, source = out.resolve(), model.resolve()
    if here == source or source in here.parents or here in source.parents:
        raise ExportError(f"{out} is the student's own place; choose another --out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        older = "exports" in read_record(out)
    except ExportError:
        older = False
    if not older:
        raise ExportError(f"{out} is there and is no export; remove it or choose another --out")


def _list_files(model: Path, weights: bool) -> list[Path]:
    files = [model / name for name in COMMON]
    if weights:
        files += sorted(model.glob("*.safetensors")) + sorted(model.glob("*.safetensors.*"))
    lost = [file.name for file in files if not file.is_file()]
    if lost or (weights and len(files) == len(COMMON)):
        raise ExportError(f"{model} has no {', '.join(lost) or 'weights (model.safetensors)'}")
    return files


def _shorten(found: dict[str, Any], key: str) -> None:
    """Leave a path's last part where there is something at the path."""
    if found.get(key) and Path(found[key]).exists():
        found[key] = Path(found[key]).resolve().name


def _read_metrics(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"cannot read the metrics {path}: {error}") from error
    if not _is_evaluation(found):
        raise SettingError(f"{path} is not what 'pipeline evaluate --metrics' writes")
    read: dict[str, Any] = found
    for key, own in (("task", record["task"]["name"]), ("identity", record.get("identity"))):
        if None not in (read.get(key), own) and read[key] != own:
            raise SettingError(
                f"{path} was measured on another student: its {key} is {read[key]}, that of the "
                f"one to be exported {own}"
            )
    if "data" in read:
        read["data"] = Path(str(read["data"])).name
    for key in ("model", "teacher_name"):
        _shorten(read, key)
    return read


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


def _measure_size(file: Path) -> int:
    """Return a file's bytes, with those of the weights that lie beside a large one."""
    return sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
