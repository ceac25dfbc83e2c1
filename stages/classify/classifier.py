"""Texts to class probabilities, in numpy alone, whatever computes the logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.errors import ModelError, SettingError, Settings

MAX_TOKENS = 100_000  # most tokens that are read where a tokenizer states no limit


SOFTMAX, SIGMOID, RAW = "softmax", "sigmoid", "none"
SCORES = {
    SOFTMAX: "",
    SIGMOID: "scores: each label by itself (sigmoid), they need not sum to 1",
    RAW: "scores: the model's outputs as they are, since its problem_type is regression",
}
"""How logits become scores, and what is to be said where these are not of one label in all."""


@dataclass(frozen=True)
class Answers:
    """What a classifier says of some texts."""

    probabilities: np.ndarray  # shape (N, K), float32; scores of another kind where its are
    cut: np.ndarray  # whether each text was longer than the classifier reads, shape (N,), bool


@dataclass(frozen=True)
class Classifier:
    """A sequence-classification model and its tokenizer."""

    # Texts and a limit to each text's ids, start token included, cut at the limit.
    encode: Callable[[list[str], int], Sequence[Sequence[int]]]
    # Ids and mask, both (B, T) int64, to logits, (B, K) float32.
    run: Callable[[np.ndarray, np.ndarray], np.ndarray]
    labels: tuple[str, ...]  # the classes' names in column order
    max_length: int  # longest input in tokens, the start token included
    pad_id: int  # pads shorter inputs
    device: str  # what computes, and why that does, for the log
    batch_rows: int = 64  # texts per forward pass
    scores: str = SOFTMAX  # how logits become scores, one of SCORES

    def classify(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None
    ) -> Answers:
        """Classify texts in their order; those of similar length share a batch.

        A text may be empty; one longer than ``max_length`` is cut.  ``advance`` is told how many
        texts of each batch are done, and may raise to stop.
        """
        if not texts:
            return Answers(np.empty((0, len(self.labels)), np.float32), np.empty(0, bool))
        # One token more than is read, to know which texts were cut.
        limit = self.max_length + 1
        ids = [tokens[:limit] for tokens in self.encode(list(texts), limit)]
        cut = np.array([len(tokens) > self.max_length for tokens in ids], dtype=bool)
        if long := np.flatnonzero(cut).tolist():
            # By the tokenizer, which keeps what it ends a text with.
            again = self.encode([texts[row] for row in long], self.max_length)
            for row, tokens in zip(long, again, strict=True):
                ids[row] = tokens
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        probabilities = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        for begin in range(0, len(order), self.batch_rows):
            rows = order[begin : begin + self.batch_rows]
            batch = [ids[row][: self.max_length] for row in rows]
            # Another tokenizer than a student's may give an empty text no token at all.
            inputs = np.full((len(rows), max(1, *map(len, batch))), self.pad_id, dtype=np.int64)
            mask = np.zeros_like(inputs)
            for index, tokens in enumerate(batch):
                inputs[index, : len(tokens)] = tokens
                mask[index, : len(tokens)] = 1
            probabilities[rows] = self.answer(inputs, mask)
            advance(len(rows))
        return Answers(probabilities, cut)

    def answer(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return class probabilities, shape (B, K), float32, of token ids, shape (B, T), int64.

        They are scores of another kind where ``scores`` says so.  Each row is the start token and
        the input.  The mask is 1 there and 0 at padding, shape (B, T), int64; None: no padding.
        """
        logits = self.run(ids, np.ones_like(ids) if mask is None else mask)
        if self.scores == RAW:
            return logits
        if self.scores == SIGMOID:
            # In this form nothing overflows.
            each: np.ndarray = (1 + np.tanh(logits / 2)) / 2
            return each
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities


def choose_scores(problem_type: object, labels: int) -> str:
    """Return how logits become scores, as transformers' pipeline has it, or raise ModelError."""
    known = ("regression", "single_label_classification", "multi_label_classification", None)
    if problem_type not in known:
        raise ModelError(f"config.json: problem_type: got {problem_type!r}, must be one of {known}")
    if problem_type == known[0]:
        return RAW
    return SIGMOID if problem_type == known[2] or labels == 1 else SOFTMAX


def find_model(model: Path, file: str | None = None) -> Path:
    """Return what is loaded of a model: its directory, for torch, or an ONNX file.

    Of a directory with ONNX files alone that is the float32 file, ``model.onnx``, or the only one.
    ``file`` is the path below the directory, or the name, of another one.  Raises SettingError
    where there is no such file, or none of several is to be preferred.
    """
    if file is None and (is_onnx(model) or any(model.glob("*.safetensors*"))):
        return model
    files = sorted((*model.glob("*.onnx"), *model.glob("onnx/*.onnx")))
    names = {each: (each.name, each.relative_to(model).as_posix()) for each in files}
    found = [each for each in files if (file or "model.onnx") in names[each]]
    if found or (file is None and len(files) < 2):
        return (found or files or [model])[0]
    there = ", ".join(path for _, path in names.values()) or "none"
    what = f"no ONNX file {file!r}" if file else "several ONNX files and no model.onnx"
    raise SettingError(f"{model} has {what}; there are: {there}", Settings(("file",)))


def is_onnx(model: Path) -> bool:
    """Whether a path is meant as an ONNX file rather than a model's directory."""
    return model.suffix.lower() == ".onnx"


def model_directory(model: Path) -> Path:
    """Return the directory with a model's configuration, tokenizer and record.

    Of an ONNX file it is the folder or the one above, as in the layout ``onnx/model.onnx`` of model
    hubs; a model's directory is returned as it is.
    """
    if not is_onnx(model):
        return model
    folder = model.absolute().parent
    return folder if (folder / "config.json").is_file() else folder.parent
