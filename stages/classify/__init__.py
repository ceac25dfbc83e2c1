"""TODO."""

from stages.classify.classifier import Classifier, is_onnx, model_directory
from stages.classify.loading import load_classifier
from stages.classify.onnx_classifier import INPUTS, INSTALL, OUTPUT, load_onnx_classifier
from stages.classify.tagging import format_answer, read_line, tag_lines

__all__ = [
    "INPUTS",
    "INSTALL",
    "OUTPUT",
    "Classifier",
    "format_answer",
    "is_onnx",
    "load_classifier",
    "load_onnx_classifier",
    "model_directory",
    "read_line",
    "tag_lines",
]
