"""Loading a causal language model for inference."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.devices import ALL
from stages.errors import ModelError
from stages.lm.causality import check_causal
from stages.lm.gguf_file import load_gguf
from stages.lm.memory import check_fit, share_memory
from stages.lm.quantisation import check_quantisation, make_quantisation
from stages.lm.resolve import read_config
from stages.loading import load_weights
from stages.reporter import Reporter, SilentReporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def choose_attention(folder: Path) -> str:
    """Return how attention is computed: ``sdpa``, or ``eager`` where a family needs that."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(read_config(folder))]
    return "sdpa" if kind._supports_sdpa else "eager"


def load_language_model(
    folder: Path,
    device: str,
    dtype: str,
    quantise: str = "none",
    reporter: Reporter | None = None,
) -> PreTrainedModel:
    """Load a causal language model for inference, in evaluation mode, its weights frozen.

    Weights go straight to where they are used, each converted or quantised on the way, so that the
    machine's own memory never holds the whole of a model that is meant for a GPU.  On the device
    ``all`` its layers lie over every CUDA device, between which accelerate moves the hidden states;
    inputs go to the input embeddings' device.

    Raises:
        SettingError: It cannot be quantised so on this device.
        ModelError: It is no causal language model, which is tried, damaged, lacks weights, or is
            larger than the device.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_kernels_available

    # With this package transformers fetches kernels: for the attention or the experts that a
    # model's configuration names, for some quantised checkpoints, and for some families always.
    if is_kernels_available():
        raise ModelError(
            "the package kernels is installed, with which transformers fetches code from a hub and "
            "runs it, where a model asks for it: pip uninstall kernels"
        )
    check_quantisation(quantise, device, dtype)
    attention = choose_attention(folder)
    check_fit(folder, device, dtype, quantise)
    options = _choose_placement(device)
    if quantise != "none":
        options["quantization_config"] = make_quantisation(folder, quantise)
    load = partial(
        load_weights,
        AutoModelForCausalLM,
        str(folder),
        "a causal LM",
        # Not read again from the folder, where it may name an attention of its own.
        config=read_config(folder),
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        **options,
    )
    try:
        model = (
            load_gguf(folder, load, reporter or SilentReporter()) if folder.is_file() else load()
        )
    except ModelError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            check_fit(folder, device, dtype, quantise, ran_out=True)
        raise
    places = getattr(model, "hf_device_map", {})
    if device == ALL and {"cpu", "disk"} & set(map(str, places.values())):
        check_fit(folder, device, dtype, quantise, ran_out=True)
    model.requires_grad_(False)
    check_causal(model.eval(), folder, quantise)
    return model


def _choose_placement(device: str) -> dict[str, Any]:
    """Return what tells transformers where the weights go."""
    import torch

    if device == ALL:
        return {"device_map": "auto", "max_memory": share_memory()}
    return {"device_map": {"": torch.device(device)}}
