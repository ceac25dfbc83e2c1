"""Finding, choosing and loading the causal language model, and saying exactly which one it is.

A hub id is first brought to a local directory, so that one code path loads, hashes and reports
every model.  Nothing is ever executed from a model's directory and only safetensors are read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError, SettingError
from stages.hashing import hash_files
from stages.loading import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.reporting import Reporter

LLAMA = "meta-llama/Llama-2-7b-hf"
LLAMA_BYTES = 16 * 2**30
"""What Llama-2-7b needs on a device: 13.5 GB of bf16 weights, and room for a batch."""

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

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Choice:
    """A value and, in words for the log, why it was chosen."""

    value: str
    reason: str


def choose_device(device: str) -> Choice:
    """Resolve ``auto`` to the device that this machine has; ``cuda`` is each rank's own.

    Under torchrun, which gives every process of a machine a local rank, ``auto`` and ``cuda`` are
    the CUDA device of that number.

    Raises:
        SettingError: The device asked for is not there or is no device.
    """
    import torch

    if device == "auto" and not torch.cuda.is_available():
        return Choice("cpu", "auto: no CUDA device is there")
    rank = os.environ.get("LOCAL_RANK")
    if device in ("auto", "cuda") and rank is not None:
        return _choose_ranks_device(rank, torch.cuda.device_count())
    if device == "auto":
        return Choice("cuda", f"auto: {torch.cuda.get_device_name()} is there")
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise SettingError(f"device {device!r}: use auto, cpu, cuda or cuda:N") from error
    if parsed.type not in ("cpu", "cuda"):
        raise SettingError(f"device {device!r}: use auto, cpu, cuda or cuda:N")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise SettingError(f"device {device!r} is not there: torch sees {count} CUDA device(s)")
    return Choice(device, "as asked")


def choose_model(model: str, device: str) -> Choice:
    """Resolve ``auto`` to Llama-2-7b where the device has room for it, otherwise to ``mini``."""
    import torch

    if model != "auto":
        return Choice(model, "as asked")
    if torch.device(device).type != "cuda":
        return Choice("mini", f"auto: {LLAMA} needs a CUDA device, and the device is {device}")
    # Not by what is free: the same command beside a running one, or after it, must mean the same
    # model, or it would fill another cache.  What does not fit then is said when it is loaded.
    _, room = torch.cuda.mem_get_info(torch.device(device))
    if room < LLAMA_BYTES:
        return Choice(
            "mini",
            f"auto: {LLAMA} needs {LLAMA_BYTES / 2**30:.0f} GiB, {device} has "
            f"{room / 2**30:.1f} GiB",
        )
    return Choice(LLAMA, f"auto: {device} has {room / 2**30:.0f} GiB")


def choose_dtype(dtype: str, device: str) -> Choice:
    """Resolve ``auto`` to the number format that the device computes the model in."""
    import torch

    if dtype != "auto":
        if dtype not in DTYPES:
            raise SettingError(f"dtype: got {dtype!r}, must be auto or one of {', '.join(DTYPES)}")
        return Choice(dtype, "as asked")
    if torch.device(device).type != "cuda":
        return Choice("float32", "auto: the CPU's own format")
    if torch.cuda.is_bf16_supported():
        return Choice("bfloat16", "auto: the GPU computes it natively")
    return Choice("float16", "auto: the GPU has no bfloat16")


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
        return _require_files(Path(__file__).parent / "mini", "mini")
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
        return Path(__file__).parent / "mini" if model == "mini" else Path(model)
    _refuse_paths(model)
    return _fetch_model(model, FILES[1:])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory.

    Raises:
        ModelError: There is none, or it is not readable.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises a dozen types, some of them bare
        raise ModelError(f"cannot load the tokenizer of {folder}: {_one_line(error)}") from error


def choose_attention(folder: Path) -> str:
    """Return how a model's attention is computed: fused, or plainly where a family needs that.

    Raises:
        ModelError: It is no causal language model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except Exception as error:  # transformers raises a dozen types, some of them bare
        raise ModelError(f"{folder} is no causal LM: {_one_line(error)}") from error
    return "sdpa" if kind._supports_sdpa else "eager"


def load_language_model(folder: Path, device: str, dtype: str) -> PreTrainedModel:
    """Load a causal language model for inference.

    Args:
        folder: A directory from :func:`resolve_model`.
        device: Device to put it on.
        dtype: One of :data:`DTYPES`.

    Returns:
        The model in evaluation mode, its weights frozen.

    Raises:
        ModelError: It is no causal language model, damaged, lacks weights, or is larger than the
            device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = load_weights(
        AutoModelForCausalLM,
        str(folder),
        "a causal LM",
        dtype=getattr(torch, dtype),
        attn_implementation=choose_attention(folder),
    )
    try:
        model = model.to(device)
    except torch.OutOfMemoryError as error:
        size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
        raise ModelError(
            f"{folder} is {size:.1f} GiB in {dtype} and does not fit on {device}; use a smaller "
            "model, --dtype bfloat16 or --device cpu"
        ) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
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


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cut the text in front of an input into pieces, BOS first where the tokenizer has one."""
    ids: list[int] = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return ids if bos is None else [int(bos), *ids]


def _choose_ranks_device(rank: str, count: int) -> Choice:
    if not rank.isdecimal():
        raise SettingError(f"LOCAL_RANK: got {rank!r:.40}, must be a number, as torchrun sets it")
    if int(rank) >= count:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", "an unknown number of")
        raise SettingError(
            f"torchrun's local rank {rank} has no device of its own: torchrun started {ranks:.40} "
            f"processes here, torch sees {count} CUDA device(s); start one for each, or say "
            "--device cuda:N to share one, or --device cpu"
        )
    return Choice(f"cuda:{int(rank)}", f"torchrun's local rank {int(rank)}")


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
            f"({_one_line(error)}); give a local directory, or --model mini"
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


def _one_line(error: Any) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
