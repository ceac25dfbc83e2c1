"""Finding and loading the causal language model, and saying exactly which one it is.

A hub id is first brought to a local directory, so that one code path loads, hashes and reports
every model.  Nothing is ever executed from a model's directory and only safetensors are read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.devices import ALL
from stages.errors import ModelError
from stages.lm.hashing import hash_files
from stages.lm.memory import check_fit, describe_shortage, share_room
from stages.lm.quantisation import check_quantisation, make_quantisation, try_quantised
from stages.loading import load_weights, one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from stages.reporter import Reporter

MINI = Path(__file__).parents[1] / "mini"
"""The bundled teacher's directory."""

FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
"""What is fetched of a hub repository: weights, configuration and tokenizer, no code."""

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def resolve_model(model: str) -> Path:
    """Bring a model to a local directory.

    Args:
        model: ``mini``, a directory, or a hub id.

    Returns:
        A directory with config, safetensors and tokenizer.

    Raises:
        ModelError: There is no such directory or hub id, it cannot be reached, or it holds no
            safetensors.
    """
    if model == "mini":
        return _require_files(MINI, "mini")
    if Path(model).is_dir():
        return _require_files(Path(model), model)
    _refuse_paths(model)
    return _require_files(_fetch_model(model, FILES), model)


def resolve_tokenizer(model: str) -> Path:
    """Bring a model's tokenizer to a local directory; weights are not needed.

    Raises:
        ModelError: As for :func:`resolve_model`.
    """
    if model == "mini" or Path(model).is_dir():
        return MINI if model == "mini" else Path(model)
    _refuse_paths(model)
    return _fetch_model(model, FILES[1:])


def choose_attention(folder: Path) -> str:
    """Return how a model's attention is computed: fused, or plainly where a family needs that.

    Raises:
        ModelError: It is no causal language model.
    """
    return _read_config(folder)[1]


def load_language_model(
    folder: Path, device: str, dtype: str, quantise: str = "none"
) -> PreTrainedModel:
    """Load a causal language model for inference.

    Weights go straight to where they are used, each converted or quantised on the way, so that the
    machine's own memory never holds the whole of a model that is meant for a GPU.

    Args:
        folder: A directory from :func:`resolve_model`.
        device: Device to put it on, or ``all``: its layers over every CUDA device, which accelerate
            moves the hidden states between; inputs go to the input embeddings' device.
        dtype: One of :data:`stages.devices.DTYPES`.
        quantise: One of :data:`stages.lm.quantisation.QUANTISATIONS`.

    Returns:
        The model in evaluation mode, its weights frozen.

    Raises:
        SettingError: It cannot be quantised so on this device.
        ModelError: It is no causal language model, damaged, lacks weights, or is larger than the
            device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _refuse_kernels()
    check_quantisation(quantise, device, dtype)
    config, attention = _read_config(folder)
    check_fit(folder, device, dtype, quantise)
    options = _choose_placement(device)
    if quantise != "none":
        options["quantization_config"] = make_quantisation(folder, quantise)
    try:
        model = load_weights(
            AutoModelForCausalLM,
            str(folder),
            "a causal LM",
            # Not read again from the folder, where it may name an attention of its own.
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            **options,
        )
    except ModelError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise ModelError(describe_shortage(folder, device, dtype, quantise)) from error
        raise
    places = getattr(model, "hf_device_map", {})
    if device == ALL and {"cpu", "disk"} & set(map(str, places.values())):
        raise ModelError(describe_shortage(folder, device, dtype, quantise))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if quantise != "none":
        try_quantised(model, quantise)
    return model.eval()


def describe_identity(folder: Path, reporter: Reporter) -> dict[str, str]:
    """Hash what a model's answers depend on; large files that are as they were need no reading.

    Args:
        folder: A directory from :func:`resolve_model`.
        reporter: Told what takes long and what is wrong with the memory of hashes.

    Returns:
        SHA-256 of the weights, the configuration and the tokenizer files.

    Raises:
        ModelError: A file cannot be read, or is being written.
        Interrupted: A stop was asked for.
    """
    weights = sorted(folder.glob("*.safetensors"))
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return {
        "weights": _combine_hashes(weights, reporter),
        "config": _combine_hashes([folder / "config.json"], reporter),
        "tokenizer": _combine_hashes(tokenizer, reporter),
    }


def find_start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that begins a student's input: BOS, or EOS where a tokenizer has no BOS.

    Raises:
        ModelError: The tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError("the tokenizer has neither a BOS nor an EOS token to begin an input with")


def _read_config(folder: Path) -> tuple[PretrainedConfig, str]:
    """Read a model's configuration, and choose how its attention is computed."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except Exception as error:  # transformers raises a dozen types, some of them bare
        raise ModelError(f"{folder} is no causal LM: {one_line(error)}") from error
    return config, "sdpa" if kind._supports_sdpa else "eager"


def _choose_placement(device: str) -> dict[str, Any]:
    """Return what tells transformers where the weights go."""
    import torch

    if device == ALL:
        return {"device_map": "auto", "max_memory": share_room()}
    return {"device_map": {"": torch.device(device)}}


def _refuse_kernels() -> None:
    """Refuse to load a model where that could run code from a hub.

    Only with this package does transformers fetch kernels: for the attention or the experts that a
    model's own configuration names, for some quantised checkpoints, and for some families always.
    """
    from transformers.utils import is_kernels_available

    if is_kernels_available():
        raise ModelError(
            "the package kernels is installed, with which transformers fetches code from a hub and "
            "runs it, where a model asks for it: pip uninstall kernels"
        )


def _refuse_paths(model: str) -> None:
    if model.count("/") > 1 or model.startswith((".", "/", "~")) or "\\" in model:
        raise ModelError(f"there is no model directory {model!r}")


def _fetch_model(model: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(files)))
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
            f"({one_line(error)}); give a local directory, or --model mini"
        ) from error


def _require_files(folder: Path, name: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name}: {folder} is no model directory, it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name}: {folder} has no safetensors weights; other formats are not read, since "
            "they can run code when loaded"
        )
    return folder


def _combine_hashes(paths: list[Path], reporter: Reporter) -> str:
    digest = hashlib.sha256()
    for path, inner in zip(paths, hash_files(paths, reporter), strict=True):
        digest.update(f"{path.name}:{inner}\n".encode())
    return digest.hexdigest()
