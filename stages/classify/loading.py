"""Loading a classifier from a directory or an ONNX file, importing only what it needs."""

from pathlib import Path

from stages.checkpoints import check_directory
from stages.classify.classifier import Classifier, find_model, is_onnx
from stages.classify.onnx_classifier import load_onnx_classifier
from stages.errors import Hint


def load_classifier(model: Path, device: str) -> Classifier:
    """Load a classifier from a sequence-classification model's directory or an ONNX file.

    The device is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; torch is imported for directories.
    SettingError: the device is not there; ModelError: it is no such model.
    """
    model = find_model(model)
    if is_onnx(model):
        return load_onnx_classifier(model, device)
    check_directory(model, Hint.TRAIN)
    from stages.classify.torch_classifier import load_torch_classifier

    return load_torch_classifier(model, device)
