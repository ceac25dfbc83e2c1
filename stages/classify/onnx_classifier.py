"""Classifiers in onnxruntime: an ONNX file and its tokenizer, without torch or transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.classify.classifier import LONGEST, Classifier, model_directory
from stages.devices import Choice
from stages.errors import ModelError, SettingError

INPUTS = ("input_ids", "attention_mask")
"""What a file must take, both (batch, length) int64."""

OUTPUT = "logits"
"""What it must give, (batch, K) float32."""

INSTALL = "pip install -c constraints.txt -e '.[onnx]'"
"""How the extra is installed that holds everything for ONNX."""


def load_onnx_classifier(file: Path, device: str, threads: int | None = None) -> Classifier:
    """Load an ONNX file; tokenizer and configuration lie beside it or one folder up.

    Args:
        file: The file, as `pipeline export` writes it.
        device: ``auto`` (the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Of onnxruntime; None: as many as OMP_NUM_THREADS says, or as there are cores.

    Raises:
        SettingError: The device is none that onnxruntime has here.
        ModelError: A file or onnxruntime is missing, or a file is damaged or another kind of model.
    """
    if not file.is_file():
        raise ModelError(f"{file} is not there; 'pipeline export' makes it")
    folder = model_directory(file)
    labels, limit, pad = _read_settings(file, folder)
    tokenizer = _load_tokenizer(file, folder)
    auto = device == "auto"
    chosen = Choice("cpu", "auto: ONNX files") if auto else Choice(device, "as asked")
    threads = threads or _count_threads()
    session = _open_session(file, chosen.value, threads)
    _check_signature(file, session, len(labels))

    def encode(texts: list[str], most: int) -> Sequence[Sequence[int]]:
        tokenizer.enable_truncation(most)
        return [found.ids for found in tokenizer.encode_batch_fast(texts)]

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        try:
            (logits,) = session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))
        except Exception as error:  # onnxruntime raises a dozen types
            raise ModelError(f"{file} failed: {_one_line(error)}") from error
        found: np.ndarray = logits
        return found

    return Classifier(
        encode,
        run,
        labels=labels,
        max_length=limit,
        pad_id=(tokenizer.token_to_id(pad) if pad else None) or 0,
        device=f"{chosen.value} ({chosen.reason}), {threads} thread{'s' * (threads > 1)}",
    )


def _read_settings(file: Path, folder: Path) -> tuple[tuple[str, ...], int, str | None]:
    """Return the labels, the longest input and the padding token."""
    read: dict[str, Any] = {}
    for name in ("config.json", "tokenizer_config.json"):
        try:
            read[name] = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelError(f"{file}: no {name} beside it or one folder up") from error
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {folder / name}: {error}") from error
    config, settings = read.values()
    try:
        names = {int(column): str(label) for column, label in config["id2label"].items()}
        labels = tuple(names[column] for column in range(len(names)))
        limit = min(int(settings.get("model_max_length", LONGEST)), LONGEST)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{folder / 'config.json'} or tokenizer_config.json beside it is no classifier's: {error}"
        ) from error
    pad = settings.get("pad_token")
    return labels, limit, pad["content"] if isinstance(pad, dict) else pad


def _load_tokenizer(file: Path, folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{file}: no tokenizer.json beside it or one folder up")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare ones
        raise ModelError(f"cannot load the tokenizer {path}: {_one_line(error)}") from error
    tokenizer.no_padding()
    return tokenizer


def _count_threads() -> int:
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_session(file: Path, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"{file} needs onnxruntime: {INSTALL}") from error
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise SettingError(f"device {device!r}: use auto, cpu, cuda or cuda:N")
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise SettingError(
                f"device {device!r}: this onnxruntime has no CUDA; install onnxruntime-gpu in its "
                "place, or use --device cpu"
            )
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": number or "0"}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for the next text without using the cores meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # onnxruntime raises a dozen types
        raise ModelError(f"cannot load {file}: {_one_line(error)}") from error
    # onnxruntime would go on without the device.
    if kind == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise SettingError(f"device {device!r}: onnxruntime cannot use it; use --device cpu")
    return session


def _check_signature(file: Path, session: Any, classes: int) -> None:
    inputs = {each.name: each.type for each in session.get_inputs()}
    outputs = {each.name: each.shape for each in session.get_outputs()}
    if inputs != dict.fromkeys(INPUTS, "tensor(int64)"):
        there = ", ".join(f"{name} {kind}" for name, kind in inputs.items())
        raise ModelError(
            f"{file} takes {there}; a classifier takes {' and '.join(INPUTS)}, both int64"
        )
    shape = outputs.get(OUTPUT)
    if shape is None or len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != classes):
        there = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
        raise ModelError(f"{file} gives {there}; the classifier's {OUTPUT} are (batch, {classes})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
