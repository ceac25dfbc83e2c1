"""A finished student in use: texts in, class probabilities out.

Gives ``load_classifier`` and ``tag_rows``.  Imports numpy alone: torch and onnxruntime come in
when a model is loaded that needs them (``stages.classify.torch_classifier`` is torch's own door).
"""

from stages.classify.classifier import RAW, SCORES, Classifier, find_model, is_onnx, model_directory
from stages.classify.loading import load_classifier
from stages.classify.onnx_classifier import INPUTS, INSTALL, OUTPUT, load_onnx_classifier
from stages.classify.tagging import format_answer, tag_rows
