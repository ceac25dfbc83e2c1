"""Students as ONNX files: of any batch and any length, in float32 and with weights in 8 bits."""

from __future__ import annotations

import copy
import importlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stages.checkpoints import explained
from stages.classify import INPUTS, INSTALL, OUTPUT
from stages.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPSET = 18
"""The oldest that torch writes without converting, so that older runtimes read it as well."""

LARGEST = 2**31 - 2**24
"""Bytes of weights in one file; protobuf allows 2 GiB, the graph included."""

TOLERANCE = 1e-4
"""Largest difference in probability between a student and its float32 file."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")


class _Logits(nn.Module):
    """The model as a function of ids and mask alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


@torch.no_grad()
def _look_norms_up(model: PreTrainedModel) -> PreTrainedModel:
    """Return an encoder without layers with its norm, a function of the token, in its table."""
    if getattr(model.config, "num_hidden_layers", 1) or not hasattr(model.base_model, "norm"):
        return model
    model = copy.deepcopy(model)
    base = model.base_model
    words = model.get_input_embeddings()
    words.weight.copy_(torch.cat([base.norm(part) for part in words.weight.split(4096)]))
    base.norm = nn.Identity()
    return model


def check_packages() -> None:
    """Check that what writing ONNX files needs is installed."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(f"ONNX files need the package {name}: {INSTALL}") from error


def export_onnx(model: PreTrainedModel, file: Path) -> None:
    """Write a sequence-classification model, on the CPU and in float32, as an ONNX file.

    Weights that do not fit into it go into ``<file>.data`` beside it.
    """
    # Neither 1 nor alike: torch takes such sizes for constants.
    ids = torch.arange(3 * 7).reshape(3, 7) % model.config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    error = f"cannot write the encoder ({model.config.model_type}) as ONNX"
    # What torch warns of are its own parts and that two inputs have the same axes.
    with explained(ExportError, error), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            _Logits(_look_norms_up(model)).eval(),
            (),
            file,
            kwargs=dict(zip(INPUTS, (ids, mask), strict=True)),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(INPUTS, axes),
            opset_version=OPSET,
            dynamo=True,
            external_data=sum(part.nbytes for part in model.parameters()) > LARGEST,
            verbose=False,
        )


def quantise_onnx(source: Path, file: Path) -> None:
    """Write an ONNX file with its weights in 8 bits.

    Matrices have a scale for each output; what they are multiplied with is rounded as it comes.
    Tables whose rows are looked up have a scale for each row and stay in 8 bits in file and memory.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    with explained(ExportError, f"cannot write {file.name}"):
        model = onnx.load(source)
        _quantise_tables(model)
        # Or it advises shapes and folded constants, which torch's exporter has seen to.
        add_pre_process_metadata(model)
        large = model.ByteSize() > LARGEST
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            # Processors without VNNI add products of 8 bits in 16, which full ranges overflow.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )


def _quantise_tables(model: Any) -> None:
    """Replace tables that rows are looked up of by 8 bits and a scale for each row."""
    from onnx import TensorProto, helper, numpy_helper

    def looks_rows_up(node: Any) -> bool:
        axes = [int(each.i) for each in node.attribute if each.name == "axis"]
        return bool(node.op_type == "Gather" and axes in ([], [0]))

    graph = model.graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    tables = {
        each.name
        for each in graph.initializer
        if each.data_type == TensorProto.FLOAT
        and len(each.dims) == 2
        and each.name in readers
        and all(looks_rows_up(node) for node in readers[each.name])
    }
    for table in [each for each in graph.initializer if each.name in tables]:
        rows = numpy_helper.to_array(table)
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
        whole = np.rint(rows / scale).astype(np.int8)
        graph.initializer.remove(table)
        for part, ending in ((whole, "_int8"), (scale.astype(np.float32), "_scale")):
            graph.initializer.append(numpy_helper.from_array(part, table.name + ending))
    nodes: list[Any] = []
    for node in graph.node:
        if not node.input or (name := node.input[0]) not in tables:
            nodes.append(node)
            continue
        out = node.output[0]
        for ending in ("_int8", "_scale"):
            inputs = [name + ending, node.input[1]]
            nodes.append(helper.make_node("Gather", inputs, [out + ending], out + ending, axis=0))
        wide = out + "_wide"
        nodes.append(helper.make_node("Cast", [out + "_int8"], [wide], wide, to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [wide, out + "_scale"], [out], out + "_rows"))
    del graph.node[:]
    graph.node.extend(nodes)
