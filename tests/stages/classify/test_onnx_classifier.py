from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from processes import Result

from stages.classify.onnx_classifier import load_onnx_classifier
from stages.errors import ModelError, SettingError

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


@pytest.fixture
def folder(exported: tuple[Path, Result], tmp_path: Path) -> Path:
    """An export to spoil."""
    shutil.copytree(exported[0], tmp_path / "export")
    return tmp_path / "export"


def write_graph(
    file: Path,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    kind: int = INT64,
    output: str = "logits",
    classes: int = 2,
    product: TensorProto | None = None,
) -> None:
    """A model whose logits are the ids as they are, or their product with a matrix."""
    shape, last = ["batch", "length"], output if product is None else "wide"
    nodes = [helper.make_node("Cast", [inputs[0]], [last], to=FLOAT)]
    nodes += [helper.make_node("MatMul", ["wide", "weight"], [output])] if product else []
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(output, FLOAT, ["batch", classes])],
        [product] if product else [],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("onnx/model.onnx", None, r"model\.onnx is not there"),
        ("onnx/model.onnx", b"\x08\x0anonsense", r"cannot load .*model\.onnx"),
        ("config.json", None, r"no config\.json beside it or one folder up"),
        ("config.json", b"{", r"cannot read .*config\.json"),
        ("config.json", b"{}", r"config\.json .*id2label"),
        ("config.json", b'{"id2label": {"0": "a", "2": "b"}}', "is no classifier's"),
        ("tokenizer.json", None, r"no tokenizer\.json beside it or one folder up"),
        ("tokenizer.json", b"{}", r"cannot load the tokenizer .*tokenizer\.json"),
        ("tokenizer_config.json", None, r"no tokenizer_config\.json beside it"),
        ("tokenizer_config.json", b"[]", r"tokenizer_config\.json holds no JSON object, but list"),
    ],
)
def test_a_file_that_is_lost_or_damaged_is_named(
    name: str, content: bytes | None, named: str, folder: Path
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=named):
        load_onnx_classifier(folder / "onnx/model.onnx", "cpu")


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda file: write_graph(file, ("pixels",)), "takes pixels .*takes input_ids and"),
        (lambda file: write_graph(file, kind=TensorProto.INT32), r"tensor\(int32\)"),
        (lambda file: write_graph(file, output="scores"), "gives scores"),
        (lambda file: write_graph(file, classes=3), r"are \(batch, 2\)"),
    ],
)
def test_another_kind_of_model_says_what_is_other(
    write: Callable[[Path], None], named: str, folder: Path
) -> None:
    write(folder / "onnx/model.onnx")
    with pytest.raises(ModelError, match=named):
        load_onnx_classifier(folder / "onnx/model.onnx", "cpu")


def test_a_model_that_fails_when_it_runs_is_named(folder: Path) -> None:
    file = folder / "onnx/model.onnx"
    weight = helper.make_tensor("weight", FLOAT, [5, 2], [0.5] * 10)
    write_graph(file, product=weight)
    with pytest.raises(ModelError, match=r"model\.onnx failed"):
        load_onnx_classifier(file, "cpu").classify(["Good"])


def test_everything_beside_the_file_serves_as_well(folder: Path) -> None:
    wanted = load_onnx_classifier(folder / "onnx/model.onnx", "cpu").classify(["Good film"])
    (folder / "onnx/model.onnx").rename(folder / "mine.onnx")
    found = load_onnx_classifier(folder / "mine.onnx", "cpu").classify(["Good film"])
    assert (found.probabilities == wanted.probabilities).all()


def test_a_tokenizer_without_limit_or_padding(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["model_max_length"] = 10**30
    settings["pad_token"] = {"content": settings["pad_token"]}
    path.write_text(json.dumps(settings))
    named = load_onnx_classifier(folder / "onnx/model.onnx", "cpu")
    config = json.loads((folder / "config.json").read_text())
    assert named.max_length == config["max_position_embeddings"]
    path.write_text("{}")
    bare = load_onnx_classifier(folder / "onnx/model.onnx", "cpu")
    texts = ["Good", "Bad " * 9]
    assert bare.pad_id == 0
    found = bare.classify(texts).probabilities
    assert found == pytest.approx(named.classify(texts).probabilities, abs=1e-5)
    # RoBERTa's table begins behind the padding's id.
    config |= {"model_type": "roberta", "max_position_embeddings": 40}
    for pad, longest in ((-1, 40), (1, 38)):
        (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": pad}))
        assert load_onnx_classifier(folder / "onnx/model.onnx", "cpu").max_length == longest


def test_threads_are_as_many_as_the_environment_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wanted, said in (("1", ", 1 thread"), ("3", ", 3 threads"), ("", ""), ("2,2", "")):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        classifier = load_onnx_classifier(folder / "onnx/model.onnx", "auto")
        assert classifier.device.startswith("cpu (auto") and said in classifier.device


def test_without_onnxruntime_it_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"needs onnxruntime: pip install -c .*\[onnx\]"):
        load_onnx_classifier(folder / "onnx/model.onnx", "cpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_cuda_device_that_onnxruntime_would_silently_do_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "onnx/model.onnx"
    with pytest.raises(SettingError, match="this onnxruntime has no CUDA; install onnxruntime-gpu"):
        load_onnx_classifier(file, "cuda")
    # As a build with CUDA where no driver is.
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises(SettingError, match=r"'cuda:1': onnxruntime cannot use it"):
        load_onnx_classifier(file, "cuda:1")
