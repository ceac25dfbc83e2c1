"""Loading from transformers: models that lack no weight, and tokenizers; no code is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.checkpoints.directories import (
    check_directory,
    check_pointers,
    find_weights,
    read_json,
    refuse_others,
)
from stages.devices import DTYPES
from stages.errors import ModelError, StageError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LINE = 300
"""Characters of a message that comes from elsewhere."""

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.*.json",
    "vocab.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
)
NO_TOKENIZER = (
    "there is none (tokenizer.json, tokenizer.model, or vocab.json with merges.txt); copy the "
    "tokenizer's files from the model that this one was made of"
)


def load_weights(
    kind: Any,
    source: str,
    what: str,
    may_be_new: Callable[[PreTrainedModel, str], bool] | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a model from safetensors, or from the option ``gguf_file``, or raise ModelError.

    ``kind`` is one of transformers' classes with ``from_pretrained``, ``what`` says for messages
    what it is to be.  ``may_be_new`` says of a model's weight whether it may be missing, such as a
    head's that is to be trained; None: no weight may.
    """
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    alone = "gguf_file" in options
    if Path(source).exists() and not alone:
        find_weights(Path(source))
    try:
        with TemporaryDirectory() as empty:
            model, found = kind.from_pretrained(
                empty if alone else source,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises a dozen types, some of them bare
        reason = one_line(error)
        if type(error).__name__ == "SafetensorError":
            reason += "; the weights are damaged or were not fetched whole, fetch them again"
        raise ModelError(f"cannot load {what} from {source}: {reason}") from error
    # A weight of another shape comes with both shapes.
    other = {key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]}
    lost = sorted(
        key
        for key in {*found["missing_keys"], *other}
        if may_be_new is None or not may_be_new(model, key)
    )
    if lost:
        fault = "of another shape" if lost[0] in other else "missing"
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ModelError(f"{source} is not {what}: the weight {lost[0]}{more} is {fault}")
    return model


def load_config(folder: Path, what: str) -> PretrainedConfig:
    """Load a model directory's configuration, or raise ModelError; ``what`` is what it is to be."""
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    check_directory(folder)
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises a dozen types, some of them bare
        found, reason = read_json(folder / "config.json"), one_line(error)
        kind = found.get("model_type")
        if not isinstance(kind, str):
            reason = "its config.json has no model_type"
        elif kind not in CONFIG_MAPPING:
            unknown = f"transformers {__version__} does not know the model_type {kind!r}"
            reason = _explain_code(error, found) or unknown
        elif "module 'torch' has no attribute" in reason:
            dtype = found.get("dtype", found.get("torch_dtype"))
            reason = f"dtype in config.json: got {dtype!r}, must be one such as {', '.join(DTYPES)}"
        raise ModelError(f"{folder} is no {what}: {reason}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory, or raise ModelError."""
    from transformers import AutoTokenizer

    check_pointers(folder.glob("*"))
    message = f"cannot load the tokenizer of {folder}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises a dozen types, some of them bare
        raise ModelError(f"{message}: {_explain_tokenizer(folder, error)}") from error
    # Without its files transformers makes an empty one of most families.
    files = set(tokenizer.vocab_files_names.values())
    if files and not _has_vocabulary(folder, files - {"tokenizer.json"}):
        raise ModelError(f"{message}: {NO_TOKENIZER}")
    # A SentencePiece file alone says nothing of BOS; the models that have one learned with it.
    if tokenizer.bos_token and not any(folder.glob("tokenizer*.json")):
        tokenizer.add_bos_token = True
    return tokenizer


def _has_vocabulary(folder: Path, parts: Collection[str]) -> bool:
    """Whether there is a file that holds a whole vocabulary, or all the parts of one."""
    whole = any(file for pattern in VOCABULARIES for file in folder.glob(pattern))
    return whole or (bool(parts) and all((folder / name).is_file() for name in parts))


def _explain_tokenizer(folder: Path, error: Exception) -> str:
    from tokenizers import Tokenizer

    names = [folder / name for name in ("config.json", "tokenizer_config.json")]
    settings = [read_json(file) for file in names if file.is_file()]
    if code := _explain_code(error, *settings):
        return code
    if (file := folder / "tokenizer.json").is_file():
        try:
            Tokenizer.from_file(str(file))
        except Exception as damage:  # tokenizers raises bare ones
            return f"its tokenizer.json is damaged or of a newer version ({one_line(damage)})"
    if _has_vocabulary(folder, ("vocab.json", "merges.txt")):
        return one_line(error)
    refuse_others(folder)
    return NO_TOKENIZER


def _explain_code(error: Exception, *settings: Mapping[str, Any]) -> str:
    named = [one_line(each["auto_map"]) for each in settings if each.get("auto_map")]
    if not named or "trust_remote_code" not in str(error):
        return ""
    return (
        f"it needs code of its own (auto_map: {named[-1]}), which is never run; give a model of a "
        "family that transformers has itself"
    )


@contextmanager
def explained(kind: type[StageError], message: str) -> Iterator[None]:
    """Have whatever fails inside be an error of one sentence that begins with the message."""
    try:
        yield
    except Exception as error:  # transformers, torch and onnx raise dozens of types, some bare
        raise kind(f"{message}: {one_line(error)}") from error


def one_line(error: object) -> str:
    """Return an exception's text as one line of about 300 characters, or its type's name.

    A longer one ends in ``…`` behind a whole word.
    """
    text = " ".join(str(error).split())
    if len(text) > LINE:
        text = f"{text[:LINE].rpartition(' ')[0] or text[:LINE]} …"
    return text or type(error).__name__
