"""Finding a causal language model: a hub id is first brought to a local directory.

So one code path loads, hashes and reports every model.  Nothing is ever executed from a model's
directory and only safetensors are read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stages.directories import INDEX, WEIGHTS, check_directory, find_weights, list_shards
from stages.errors import ModelError
from stages.loading import load_config, one_line
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
    """Bring a model to a local directory with config, safetensors and tokenizer.

    ``model`` is ``mini``, a directory, or a hub id.

    Raises:
        ModelError: It is none of these, cannot be reached, or is no causal language model with its
            weights in safetensors.
    """
    folder = _find_folder(model, weights=True)
    find_weights(folder)
    read_config(folder)
    return folder


def resolve_tokenizer(model: str) -> Path:
    """Bring a model's tokenizer, without weights, to a local directory, or raise ModelError."""
    return _find_folder(model, weights=False)


def read_config(folder: Path) -> PretrainedConfig:
    """Read the configuration of a causal language model, or raise ModelError."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = load_config(folder, "causal LM")
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
        check_directory(Path(model))
    if os.path.isdir(model):  # noqa: PTH112
        return Path(model)
    if model.count("/") > 1 or model.startswith((".", "/", "~")) or "\\" in model:
        raise ModelError(f"there is no model directory {model!r}")
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        # As transformers decides, so that no other copy of the weights is fetched.
        patterns = [*SETTINGS, WEIGHTS] if weights else list(SETTINGS)
        folder = Path(snapshot_download(model, allow_patterns=patterns, ignore_patterns=BELOW))
        if weights and not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
            shards = [file.name for file in list_shards(folder / INDEX)]
            # Of the same commit, whatever has been pushed meanwhile.
            snapshot_download(model, allow_patterns=shards, revision=folder.name)
        return folder
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
