"""Any classifier of transformers, against transformers' own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from processes import Result, run_here
from tiny import make_tokenizer
from tokenizers import processors

TEXTS = ("Good film", "Bad", "a film answer: " * 30)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 64}


def write(
    folder: Path, family: str, labels: int, problem_type: str | None, pad: bool = True
) -> Any:
    """A classifier that ends its texts with a token, as most do, and states no longest input."""
    tokenizer = make_tokenizer()
    core = tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    if pad:
        tokenizer.pad_token = "</s>"  # noqa: S105
    tokenizer.save_pretrained(folder)
    known = type(hf.AutoConfig.for_model(family))
    own = SMALL | {"vocab_size": len(tokenizer), "pad_token_id": 1 if pad else None}
    config = known(**own, max_position_embeddings=40, problem_type=problem_type, num_labels=labels)
    torch.manual_seed(0)
    model = hf.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return hf.pipeline("text-classification", model=str(folder), top_k=None)


def tag(folder: Path, *options: object) -> tuple[Result, list[dict[str, Any]]]:
    done = run_here("tag", "--model", folder, *options, stdin="\n".join(TEXTS).encode())
    return done, [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.parametrize(
    ("labels", "problem_type", "said"),
    [
        (3, None, None),
        (3, "single_label_classification", None),
        (3, "multi_label_classification", "scores: each label by itself (sigmoid)"),
        (1, None, "scores: each label by itself (sigmoid)"),
        (1, "regression", "scores: the model's outputs as they are"),
        (2, "regression", "since its problem_type is regression"),
    ],
)
@pytest.mark.parametrize("family", ["roberta", "bert", "llama"])
def test_scores_and_cuts_are_those_of_transformers(
    family: str, labels: int, problem_type: str | None, said: str | None, tmp_path: Path
) -> None:
    other = write(tmp_path, family, labels, problem_type)
    done, found = tag(tmp_path, "--all")
    assert done.code == 0, done.err
    assert ("scores: " in done.err) == (said is not None)
    assert said is None or said in done.err
    # RoBERTa's table of 40 begins behind the padding's id.
    room = 38 if family == "roberta" else 40
    wanted = other(list(TEXTS), truncation=True, max_length=room)
    for own, scores in zip(found, wanted, strict=True):
        assert own["scores"] == pytest.approx({x["label"]: x["score"] for x in scores}, abs=1e-5)
        assert (own["label"], own["score"]) == (
            scores[0]["label"],
            pytest.approx(scores[0]["score"], abs=1e-5),
        )
    assert [answer.get("cut") for answer in found] == [None, None, True]


def test_a_decoder_without_a_padding_token_is_asked_text_by_text(tmp_path: Path) -> None:
    other = write(tmp_path, "llama", 3, None, pad=False)
    done, found = tag(tmp_path)
    assert done.code == 0, done.err
    for own, text in zip(found, TEXTS, strict=True):
        (best, *_), *_ = other([text], truncation=True, max_length=40)
        assert own["label"] == best["label"]
        assert own["score"] == pytest.approx(best["score"], abs=1e-5)


def test_a_problem_type_that_is_none_is_named(
    exported: tuple[Path, Result], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "export"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "ranking"}))
    for model in (folder, folder / "onnx/model.onnx"):
        done, _ = tag(model)
        assert done.code == 1
        assert "problem_type" in done.err and "ranking" in done.err


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_onnx_files_follow_it_too(
    problem_type: str, exported: tuple[Path, Result], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "export"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": problem_type}))
    both = [tag(model, "--all")[1] for model in (folder, folder / "onnx/model.onnx")]
    for in_torch, in_onnx in zip(*both, strict=True):
        assert in_torch["scores"] == pytest.approx(in_onnx["scores"], abs=1e-4)
    assert sum(both[0][0]["scores"].values()) != pytest.approx(1, abs=1e-4)


class TestOnnxDirectory:
    @pytest.fixture
    def folder(self, exported: tuple[Path, Result], tmp_path: Path) -> Path:
        """An export of ONNX files alone, as the command names it."""
        folder = Path(shutil.copytree(exported[0], tmp_path / "export"))
        (folder / "model.safetensors").unlink()
        return folder

    def test_it_is_a_model_and_the_first_line_says_which_file(
        self, folder: Path, filled: tuple[Path, object]
    ) -> None:
        done, found = tag(folder, "--all")
        assert done.code == 0, done.err
        assert done.err.splitlines()[0] == f"model: {folder}/onnx/model.onnx"
        assert found == tag(folder / "onnx/model.onnx", "--all")[1]
        done = run_here("evaluate", "--model", folder, "--cache", filled[0], "--device", "cpu")
        assert done.code == 0, done.err
        assert f"student: {folder}/onnx/model.onnx" in done.err
        done = run_here("export", "--model", folder)
        assert done.code == 1
        assert "holds onnx/model.onnx: an ONNX file, not weights for torch" in done.err

    def test_where_none_can_be_chosen_they_are_listed_and_the_only_one_needs_no_name(
        self, folder: Path
    ) -> None:
        done, _ = tag(folder, "--file", "x.onnx")
        assert (done.code, "has no ONNX file 'x.onnx'; there are: " in done.err) == (2, True)
        there = (folder / "onnx/model.onnx").rename(folder / "onnx/a.onnx")
        done, _ = tag(folder)
        listed = "no model.onnx; there are: onnx/a.onnx, onnx/model_int8.onnx (--file)"
        assert (done.code, f"has several ONNX files and {listed}" in done.err) == (2, True)
        there.unlink()
        done, found = tag(folder)
        assert done.err.splitlines()[0] == f"model: {folder}/onnx/model_int8.onnx"
        assert len(found) == len(TEXTS)

    @pytest.mark.parametrize("file", ["model_int8.onnx", "onnx/model_int8.onnx"])
    def test_another_file_can_be_chosen(
        self, file: str, folder: Path, exported: tuple[Path, Result]
    ) -> None:
        wanted = tag(folder / "onnx/model_int8.onnx")[1]
        for model in (folder, exported[0]):  # beside weights for torch as well
            done, found = tag(model, "--file", file)
            assert done.err.splitlines()[0] == f"model: {model}/onnx/model_int8.onnx"
            assert found == wanted
