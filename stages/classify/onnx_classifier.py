"""Classifiers in onnxruntime: an ONNX file and its tokenizer, without torch or transformers."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.checkpoints import check_pointers, drop_tokens, explained, read_json
from stages.classify.classifier import MAX_TOKENS, Classifier, choose_scores, model_directory
from stages.devices import count_cpus
from stages.errors import Hint, ModelError, SettingError, Settings

INPUTS = ("input_ids", "attention_mask")  # what a file must take, both (batch, length) int64
OUTPUT = "logits"  # what it must give, (batch, K) float32
OFFSET = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "mpnet")
"""Families that count positions from behind the padding's id, as RoBERTa does."""
INSTALL = "pip install -c constraints.txt -e '.[onnx]'"  # the extra with everything for ONNX


def load_onnx_classifier(file: Path, device: str, threads: int | None = None) -> Classifier:
    """Load an ONNX file, with the tokenizer and configuration of its folder or the one above.

    The device is ``auto`` (the CPU), ``cpu``, ``cuda`` or ``cuda:N``; threads, of onnxruntime, are
    as many as OMP_NUM_THREADS says, or as there are cores, where none are given.  SettingError:
    the device is not there; ModelError: a file or onnxruntime is missing or not as it must be.
    """
    if not file.is_file():
        raise ModelError(f"{file} is not there", Hint.EXPORT)
    folder = model_directory(file)
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{file}: no {name} beside it or one folder up")
    check_pointers((file, *folder.glob("*.json")))
    labels, limit, pad, scores = _read_settings(folder)
    tokenizer = _load_tokenizer(folder / "tokenizer.json")
    device, why = ("cpu", "auto: ONNX files") if device == "auto" else (device, "as asked")
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads or (int(wanted) if wanted.isdecimal() else 0) or count_cpus()
    session = _open_session(file, device, threads)
    _check_signature(file, session, len(labels))

    def encode(texts: list[str], limit: int) -> Sequence[Sequence[int]]:
        tokenizer.enable_truncation(limit)
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with explained(ModelError, f"{file} failed"):
            (logits,) = session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))
        result: np.ndarray = logits
        return result

    return Classifier(
        encode,
        run,
        labels=labels,
        max_length=limit,
        pad_id=(tokenizer.token_to_id(pad) if pad else None) or 0,
        device=f"{device} ({why}), {threads} thread{'s' * (threads > 1)}",
        scores=scores,
    )


def _read_settings(folder: Path) -> tuple[tuple[str, ...], int, str | None, str]:
    """Return the labels, the longest input, the padding token and how logits become scores."""
    config, settings = (
        read_json(folder / name) for name in ("config.json", "tokenizer_config.json")
    )
    try:
        names = {int(column): str(label) for column, label in config["id2label"].items()}
        labels = tuple(names[column] for column in range(len(names)))
        # Of these the position table begins behind the padding's id.
        skipped = (
            int(config.get("pad_token_id") or 0) + 1 if config.get("model_type") in OFFSET else 0
        )
        table = int(config.get("max_position_embeddings") or 0) - skipped
        table = table if table > 0 else MAX_TOKENS
        limit = min(int(settings.get("model_max_length", table)), table)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        files = f"{folder / 'config.json'} or tokenizer_config.json"
        raise ModelError(f"{files} is no classifier's: {error}") from error
    pad = settings.get("pad_token")
    scores = choose_scores(config.get("problem_type"), len(labels))
    return labels, limit, pad["content"] if isinstance(pad, dict) else pad, scores


def _load_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    with explained(ModelError, f"cannot load the tokenizer {path}"):
        tokenizer = Tokenizer.from_file(str(path))
        rows = json.loads((path.parent / "config.json").read_bytes()).get("vocab_size")
        if rows and tokenizer.get_vocab_size() > rows:  # some would be no row of the model's table
            state = json.loads(tokenizer.to_str())
            drop_tokens(state, rows)
            tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # control tokens in a text are text
    return tokenizer


def _open_session(file: Path, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"{file} needs onnxruntime: {INSTALL}") from error
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise SettingError(f"device {device!r}: use auto, cpu, cuda or cuda:N")
    cuda = "CUDAExecutionProvider"
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda":
        if cuda not in onnxruntime.get_available_providers():
            raise SettingError(
                f"device {device!r}: this onnxruntime has no CUDA; install onnxruntime-gpu in its "
                "place, or use the CPU",
                Settings(("device",)),
            )
        providers.insert(0, (cuda, {"device_id": number or "0"}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for the next text leave the cores to others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    with explained(ModelError, f"cannot load {file}"):
        session = onnxruntime.InferenceSession(file, options, providers=providers)
    # onnxruntime would go on without the device.
    if kind == "cuda" and cuda not in session.get_providers():
        raise SettingError(
            f"device {device!r}: onnxruntime cannot use it; use the CPU", Settings(("device",))
        )
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
