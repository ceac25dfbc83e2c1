"""The forms that a student's weights are exported in: each is one function in :data:`FORMATS`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from stages.classify import Classifier, load_onnx_classifier
from stages.classify.torch_classifier import load_model, wrap_model
from stages.errors import ExportError
from stages.export import onnx
from stages.loading import load_tokenizer
from stages.reporter import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT32, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"
"""Where optimum and transformers.js look."""


class SavedStudent:
    """A student's directory; what is read of it is loaded once, when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def model(self) -> PreTrainedModel:
        """Its model, in float32 on the CPU."""
        return load_model(self.folder)

    @cached_property
    def classifier(self) -> Classifier:
        """Its model and tokenizer, texts in and probabilities out."""
        return wrap_model(self.model, load_tokenizer(self.folder), "cpu")


def copy_weights(
    student: SavedStudent, folder: Path, int8: bool, reporter: Reporter
) -> Mapping[str, Classifier]:
    """Copy the safetensors as they are, and the index of those in parts."""
    files = sorted(student.folder.glob("*.safetensors*"))
    if not files:
        raise ExportError(f"{student.folder} has no weights (model.safetensors)")
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return {}


def write_onnx(
    student: SavedStudent, folder: Path, int8: bool, reporter: Reporter
) -> Mapping[str, Classifier]:
    """Write an ONNX file in float32, check it, and quantise it where that is asked for."""
    onnx.check_packages()
    file, small = folder / FLOAT32, folder / INT8
    file.parent.mkdir()
    reporter.say(f"writing {FLOAT32} (float32, opset {onnx.OPSET}, any batch and length)")
    with reporter.track(f"writing {FLOAT32}", 1, 0, "file"):
        onnx.export_onnx(student.model, file)
    reporter.check_stop()
    written = {FLOAT32: load_onnx_classifier(file, "cpu", threads=1)}
    vocabulary = student.model.config.vocab_size
    with reporter.track(f"checking {FLOAT32}", 1, 0, "file"):
        check = reporter.check_stop
        worst = onnx.check_onnx(student.classifier, written[FLOAT32], vocabulary, check)
    reporter.say(
        f"checked: random ids, padded and unpadded, differ by at most {worst:.1e} in "
        f"probability from the student (allowed: {onnx.TOLERANCE:g})"
    )
    if int8:
        reporter.say(f"writing {INT8} (weights in 8 bits)")
        with reporter.track(f"writing {INT8}", 1, 0, "file"):
            onnx.quantise_onnx(file, small)
        written[INT8] = load_onnx_classifier(small, "cpu", threads=1)
    reporter.check_stop()
    return written


Format: TypeAlias = Callable[[SavedStudent, Path, bool, "Reporter"], Mapping[str, Classifier]]
FORMATS: Mapping[str, Format] = {"onnx": write_onnx, "transformers": copy_weights}
"""What writes the files of each into a folder, of which nothing is kept if anything fails.

Configuration, tokenizer, record and card are written for all.  Returns what is to be compared with
the student, by its file's path below the folder.
"""
