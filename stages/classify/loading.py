"""Loading a classifier from a directory or an ONNX file, importing only what it needs."""

from __future__ import annotations

from pathlib import Path

from stages.classify.classifier import Classifier, is_onnx
from stages.classify.onnx_classifier import load_onnx_classifier
from stages.errors import Hint, ModelError


def load_classifier(model: Path, device: str) -> Classifier:
    """Load a classifier; torch is imported for a directory alone.

    Args:
        model: A sequence-classification model's directory, for torch; or an ONNX file.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        SettingError: The device is not there.
        ModelError: It is no such model.
    """
    if is_onnx(model):
        return load_onnx_classifier(model, device)
    if not (model / "config.json").is_file():
        raise ModelError(f"{model} is no model directory (it has no config.json)", Hint.TRAIN)
    if (model / "onnx").is_dir() and not any(model.glob("*.safetensors*")):
        files = ", ".join(sorted(str(file) for file in (model / "onnx").glob("*.onnx")))
        raise ModelError(f"{model} holds no weights for torch; give one of its files: {files}")
    from stages.classify.torch_classifier import load_torch_classifier

    return load_torch_classifier(model, device)
