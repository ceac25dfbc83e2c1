"""Weights of eight bits, by torchao through transformers; embeddings, norms and head never.

``int8`` quantises the weights alone, one scale for each output: half the memory of bfloat16, about
its speed, on any device.  ``fp8`` quantises the activations as well, row by row while computing,
which lets the GPUs that have such units compute twice as fast; its exponent keeps their outliers,
which eight bits of one scale would lose.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.checkpoints import explained
from stages.devices import ALL, find_main_device
from stages.errors import ModelError, SettingError
from stages.lm.resolve import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTISATIONS = ("none", "int8", "fp8")

FP8_CAPABILITY = (8, 9)
"""The first CUDA devices that multiply eight-bit floats: Ada and Hopper."""


def check_quantisation(quantise: str, device: str, dtype: str) -> None:
    """Raise SettingError for what cannot be quantised here, before anything is loaded."""
    if quantise not in QUANTISATIONS:
        raise SettingError(f"quantise: got {quantise!r}, must be one of {', '.join(QUANTISATIONS)}")
    if quantise == "none":
        return
    if find_spec("torchao") is None:
        raise SettingError(
            f"quantise {quantise}: needs torchao, which is not installed: "
            "pip install -c constraints.txt -e '.[quantised]'"
        )
    if quantise != "fp8":
        return
    import torch

    if torch.device(find_main_device(device)).type != "cuda":
        needed = "needs a CUDA device that multiplies eight-bit floats"
        raise SettingError(f"quantise fp8: {needed}, the device is {device}; use int8")
    every = range(torch.cuda.device_count()) if device == ALL else (torch.device(device),)
    for each in every:
        found = torch.cuda.get_device_capability(each)
        if found < FP8_CAPABILITY:
            raise SettingError(
                f"quantise fp8: needs CUDA devices of compute capability 8.9 or more, "
                f"{torch.cuda.get_device_name(each)} has {found[0]}.{found[1]}; use int8"
            )
    if dtype != "bfloat16":
        raise SettingError(f"quantise fp8: computes in bfloat16, got {dtype}; use dtype bfloat16")


def divide_layers(folder: Path, quantise: str) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Find the linear layers that are quantised as ``int8`` or ``fp8``, without reading weights.

    Returns their names, with (outputs, inputs) of each, and the names of the others.  Raises
    ModelError where less than half of a model's weights are in such layers.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    config = read_config(folder)
    if folder.is_file() or getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{folder} is quantised already; leave quantise out")
    with explained(ModelError, f"{folder} is no causal LM"), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, attn_implementation="eager"
        )
    head, embed = model.get_output_embeddings(), model.get_input_embeddings()
    layers, others = {}, []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        rows, columns = module.out_features, module.in_features
        # Sixteen at a time is how fp8's units take them; torchao leaves others without a word.
        if module is head or (quantise == "fp8" and (rows % 16 or columns % 16)):
            others.append(name)
        else:
            layers[name] = (rows, columns)
    outer = {id(part.weight) for part in (head, embed) if hasattr(part, "weight")}
    inner = sum(p.numel() for p in model.parameters() if id(p) not in outer)
    share = sum(rows * columns for rows, columns in layers.values()) / max(inner, 1)
    if share < 0.5:
        raise ModelError(
            f"{folder}: {type(model).__name__} has {share:.0%} of its weights in linear layers "
            f"that {quantise} can quantise; leave quantise out"
        )
    return layers, others


def make_quantisation(folder: Path, quantise: str) -> Any:
    """Return transformers' description of a quantisation; as for :func:`divide_layers`."""
    others = divide_layers(folder, quantise)[1]
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
    )
    from transformers import TorchAoConfig

    # Its recommended settings of the compiler are global, and one of them is TF32.
    kind = Int8WeightOnlyConfig if quantise == "int8" else Float8DynamicActivationFloat8WeightConfig
    scheme = kind(granularity=PerRow(), set_inductor_config=False)
    return TorchAoConfig(scheme, modules_to_not_convert=others)
