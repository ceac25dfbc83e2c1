"""Loading a classifier from a directory or an ONNX file, importing only what it needs."""

from __future__ import annotations

from pathlib import Path

from stages.classify.classifier import Classifier, is_onnx
from stages.errors import ModelError


def load_classifier(model: Path, device: str) -> Classifier:
    """Load a classifier, importing only what it needs.

    Args:
        model: A student's directory, or any like it, for torch; or an ONNX file for onnxruntime.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        SettingError: The device is not there.
        ModelError: It is no such model.
    """
    if is_onnx(model):
        from stages.classify.onnx_classifier import load_onnx_classifier

        return load_onnx_classifier(model, device)
    if not (model / "config.json").is_file():
        raise ModelError(
            f"{model} is no model directory (it has no config.json); 'pipeline student' makes one"
        )
    if (model / "onnx").is_dir() and not any(model.glob("*.safetensors*")):
        files = ", ".join(sorted(str(file) for file in (model / "onnx").glob("*.onnx")))
        raise ModelError(f"{model} holds no weights for torch; give one of its files: {files}")
    from stages.classify.torch_classifier import load_torch_classifier

    return load_torch_classifier(model, device)
