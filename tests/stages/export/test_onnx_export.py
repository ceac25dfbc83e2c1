from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from processes import Result
from tiny import ENCODER_NAMES, ENCODERS, make_encoder_config
from torch import nn

from stages.errors import ExportError
from stages.export import onnx as onnx_export
from stages.export.onnx import check_packages, export_onnx, quantise_onnx
from stages.student.architectures import ARCHITECTURES
from stages.student.folding import fold_student
from stages.student.model import Student, build_encoder

LABELS = ("bad", "good", "neither")
LONGEST, IDS = 60, 300
NAMES = ("static", *ENCODER_NAMES)
FAST = ("roberta",)
"""Tried always, beside the default one in ``exported``: it counts positions by its own rule."""


def make_student(folder: Path, arch: str) -> Any:
    """A stock model over token ids, as a student is written, of random weights."""
    torch.manual_seed(3)
    table = torch.randn(IDS, 24) * 0.1
    source = arch if arch in ARCHITECTURES else str(folder / "encoder")
    if arch not in ARCHITECTURES:
        # A graph takes a second a layer or more, and every layer is like the others.
        own = dict(ENCODERS)[arch] | ({"num_hidden_layers": 1} if arch in FAST else {})
        make_encoder_config(arch, own).save_pretrained(source)
    encoder = build_encoder(source, "random", LABELS, LONGEST - 1)
    student = Student(encoder, table[0], float(table.std())).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return fold_student(student, table, pad_id=0)


def open_file(file: Path) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return torch.from_numpy(session.run(["logits"], inputs)[0]).softmax(dim=1)

    return run


@pytest.mark.parametrize(
    "arch",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NAMES],
)
@torch.inference_mode()
def test_every_batch_and_length_gives_the_student_s_answers(arch: str, tmp_path: Path) -> None:
    model = make_student(tmp_path, arch)
    file, small = tmp_path / "model.onnx", tmp_path / "model_int8.onnx"
    export_onnx(model, file)
    quantise_onnx(file, small)
    run, run_roughly = open_file(file), open_file(small)
    differences = []
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3, 64):
        for length in (1, 2, 7, LONGEST):
            ids = torch.randint(IDS, (batch, length), generator=generator)
            ends = torch.randint(1, length + 1, (batch, 1), generator=generator)
            ends[0] = length
            for mask in (torch.ones_like(ids), (torch.arange(length) < ends).long()):
                wanted = model(input_ids=ids, attention_mask=mask).logits.softmax(dim=1)
                torch.testing.assert_close(run(ids, mask), wanted, atol=1e-4, rtol=0)
                differences.append((run_roughly(ids, mask) - wanted).abs().mean())
    assert 0 < torch.stack(differences).mean() < 0.03
    graph = onnx.load(file)
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", 18)]
    assert graph.ir_version <= 10
    shapes = [
        [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert shapes == [["batch", "length"], ["batch", "length"], ["batch", len(LABELS)]]


class TestQuantising:
    def test_no_matrix_and_no_table_is_left_in_32_bits(self, exported: tuple[Path, Result]) -> None:
        file, small = (exported[0] / "onnx" / name for name in ("model.onnx", "model_int8.onnx"))
        left = [
            each
            for each in onnx.load(small).graph.initializer
            if each.data_type == onnx.TensorProto.FLOAT and np.prod(each.dims) > 1024
        ]
        assert not left, [each.name for each in left]
        assert small.stat().st_size < 0.45 * file.stat().st_size


class Mean(nn.Module):
    """As little of a model as can be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=900, model_type="mean")
        self.table = nn.Embedding(900, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        seen = attention_mask[..., None].float()
        return SimpleNamespace(logits=(self.table(input_ids) * seen).sum(1) / seen.sum(1))


class Guarded(Mean):
    """Says another thing where a value of the mask is zero: no graph can."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        if int(attention_mask.min()) == 0:
            raise ValueError("the first text is short")
        return super().forward(input_ids, attention_mask)


class TestWriting:
    def test_weights_too_large_for_the_file_lie_beside_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Two gigabytes are more than the tests' machine need have.
        monkeypatch.setattr(onnx_export, "LARGEST", 16)
        model: Any = Mean().eval()
        file, small = tmp_path / "model.onnx", tmp_path / "int8.onnx"
        export_onnx(model, file)
        quantise_onnx(file, small)
        assert (tmp_path / "model.onnx.data").stat().st_size >= 900 * 3 * 4
        ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long)
        wanted = model(ids, mask).logits.softmax(dim=1)
        torch.testing.assert_close(open_file(file)(ids, mask), wanted)
        torch.testing.assert_close(open_file(small)(ids, mask), wanted, atol=0.05, rtol=0)

    def test_an_encoder_that_no_graph_can_be_is_named(self, tmp_path: Path) -> None:
        model: Any = Guarded().eval()
        with pytest.raises(ExportError, match=r"cannot write the encoder \(mean\) as ONNX"):
            export_onnx(model, tmp_path / "model.onnx")

    def test_a_missing_package_is_named_with_what_installs_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check_packages()
        for name in ("onnxruntime", "onnxscript", "onnx"):
            monkeypatch.setitem(sys.modules, name, None)
            with pytest.raises(ExportError, match=rf"the package {name}: pip install .*\[onnx\]"):
                check_packages()
