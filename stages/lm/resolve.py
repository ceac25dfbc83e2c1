"""Finding a causal language model: a hub id is first brought to a local directory.

So one code path loads, hashes and reports every model.  Nothing is ever executed from a model's
directory, and only safetensors and GGUF are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stages.checkpoints import (
    ADAPTER,
    INDEX,
    WEIGHTS,
    describe_adapter,
    find_weights,
    list_shards,
    load_config,
    one_line,
)
from stages.errors import ModelError
from stages.lm.gguf_file import check_whole, choose_gguf, open_gguf, read_gguf_config
from stages.records import RECORD

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MINI = Path(__file__).parents[1] / "mini"
"""The bundled teacher's directory."""

SETTINGS = ("*.json", "*.model", "*.txt", "*.jinja")
"""What is fetched from a hub repository besides weights: configuration and tokenizer, no code."""

BELOW = "*/*"
"""What lies in directories of a repository: other forms of the same model."""

HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""Ends of names of models whose head over the vocabulary is not what was trained."""


def resolve_model(model: str) -> Path:
    """Bring a model to a local directory with config, safetensors and tokenizer, or a GGUF file.

    ``model`` is ``mini``, a directory, a GGUF file, or a hub id, with ``:`` and the name of one.
    ModelError: it is none of these, cannot be reached, or is no causal language model.
    """
    folder = _find_folder(model, weights=True)
    if not folder.is_file():
        find_weights(folder)
    read_config(folder)
    return folder


def resolve_tokenizer(model: str) -> Path:
    """Bring a model's tokenizer to a local directory, or raise ModelError.

    Without weights, but for a GGUF file, which holds both.
    """
    folder = _find_folder(model, weights=False)
    if folder.is_file():
        open_gguf(folder)
    return folder


def read_config(folder: Path) -> PretrainedConfig:
    """Read the configuration of a causal language model, or raise ModelError."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = read_gguf_config(folder) if folder.is_file() else load_config(folder, "causal LM")
    names = ", ".join(map(str, config.architectures or (config.model_type,)))
    fault = ""
    if (folder / RECORD).is_file():
        fault = "a student, trained on a language model's answers"
    elif names.endswith(HEADS):
        fault = "a classifier"
    elif config.is_encoder_decoder:
        fault = "an encoder-decoder, whose decoder says nothing without its encoder"
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        fault = "a model of another kind"
    if fault:
        raise ModelError(f"{folder} is no causal LM: it holds {fault} ({names})")
    return config


def _find_folder(model: str, weights: bool) -> Path:
    if model == "mini":
        return MINI
    # Not Path's, which raise where a name is too long for one.
    if os.path.isfile(model):  # noqa: PTH113
        return Path(model)
    if os.path.isdir(model):  # noqa: PTH112
        folder = Path(model)
        files = sorted(str(file) for file in folder.glob("*.gguf"))
        if not files or any((folder / name).exists() for name in ("config.json", ADAPTER)):
            return folder
        return Path(choose_gguf(files, model))
    repository, _, name = model.partition(":")
    if repository.endswith(".gguf"):
        raise ModelError(f"there is no file {model!r}; one of a hub is repository:file.gguf")
    if repository.count("/") > 1 or model.startswith((".", "/", "~")) or "\\" in model:
        raise ModelError(f"there is no model directory {model!r}")
    with _explained_hub(model):
        return _fetch_file(repository, name) if name else _fetch(model, weights)


def _fetch(model: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    # As transformers decides, so that no other copy of the weights is fetched.
    patterns = [*SETTINGS, WEIGHTS] if weights else list(SETTINGS)
    folder = Path(snapshot_download(model, allow_patterns=patterns, ignore_patterns=BELOW))
    if weights and (folder / ADAPTER).is_file():
        raise ModelError(describe_adapter(folder, model))
    found = [name for name in ("config.json", WEIGHTS, INDEX) if (folder / name).exists()]
    if not found or (weights and found == ["config.json"]):
        files: list[str] = []
        with suppress(Exception):  # what is missing is said without the hub as well
            files = _list_files(model)
        if files:
            return _fetch_file(*choose_gguf(files, model).split(":", 1))
    if weights and WEIGHTS not in found and INDEX in found:
        shards = [file.name for file in list_shards(folder / INDEX)]
        # Of the same commit, whatever has been pushed meanwhile.
        snapshot_download(model, allow_patterns=shards, revision=folder.name)
    return folder


def _fetch_file(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    check_whole(f"{repository}:{name}")
    try:
        return Path(hf_hub_download(repository, name))
    except RemoteEntryNotFoundError as error:
        there = ", ".join(_list_files(repository)[:6]) or "there is none"
        raise ModelError(f"{repository} holds no GGUF file {name!r}, give one: {there}") from error


def _list_files(repository: str) -> list[str]:
    from huggingface_hub import HfApi

    names = HfApi().list_repo_files(repository)
    return [f"{repository}:{name}" for name in names if name.endswith(".gguf")]


@contextmanager
def _explained_hub(model: str) -> Iterator[None]:
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"{model} is gated: accept its licence on its page, then run 'hf auth login'"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"there is neither a directory nor a hub model {model!r} (private ones need "
            "'hf auth login')"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # network failures come in as many types as there are layers
        forbidden = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids it"
        reason = forbidden if is_offline_mode() else one_line(error)
        raise ModelError(
            f"{model!r} is no local directory, and the hub cannot be reached ({reason}); give a "
            "local directory, or the bundled mini"
        ) from error
