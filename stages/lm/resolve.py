"""Finding a causal language model: a hub id is first brought to a local directory.

So one code path loads, hashes and reports every model.  Nothing is ever executed from a model's
directory and only safetensors are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import ModelError
from stages.loading import explained, one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MINI = Path(__file__).parents[1] / "mini"
"""The bundled teacher's directory."""

WEIGHTS = ("*.safetensors",)

SETTINGS = ("*.json", "*.model", "*.txt", "*.jinja")
"""What is fetched from a hub repository besides weights: configuration and tokenizer, no code."""


def resolve_model(model: str) -> Path:
    """Bring a model to a local directory with config, safetensors and tokenizer.

    ``model`` is ``mini``, a directory, or a hub id.

    Raises:
        ModelError: It is none of these, cannot be reached, or holds no safetensors.
    """
    folder = _find_folder(model, WEIGHTS + SETTINGS)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model}: {folder} is no model directory, it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{model}: {folder} has no safetensors weights; other formats are not read, since "
            "they can run code when loaded"
        )
    return folder


def resolve_tokenizer(model: str) -> Path:
    """Bring a model's tokenizer to a local directory; weights are not needed.

    Raises:
        ModelError: As for :func:`resolve_model`.
    """
    return _find_folder(model, SETTINGS)


def read_config(folder: Path) -> PretrainedConfig:
    """Read the configuration of a causal language model, or raise ModelError."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    with explained(ModelError, f"{folder} is no causal LM"):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return config


def _find_folder(model: str, patterns: tuple[str, ...]) -> Path:
    if model == "mini":
        return MINI
    if Path(model).is_dir():
        return Path(model)
    if model.count("/") > 1 or model.startswith((".", "/", "~")) or "\\" in model:
        raise ModelError(f"there is no model directory {model!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ModelError(
            f"{model} is gated: accept its licence on its page, then run 'hf auth login'"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"there is neither a directory nor a hub model {model!r} (private ones need "
            "'hf auth login')"
        ) from error
    except Exception as error:  # network failures come in as many types as there are layers
        raise ModelError(
            f"{model!r} is no local directory, and the hub cannot be reached "
            f"({one_line(error)}); give a local directory, or the bundled mini"
        ) from error
