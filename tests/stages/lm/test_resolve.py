from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from stages.checkpoints import INDEX, WEIGHTS, find_weights
from stages.errors import ModelError
from stages.lm import resolve_model, resolve_tokenizer

TOKENIZER = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
CONFIG = ("config.json", "generation_config.json")
OURS = {*CONFIG, *TOKENIZER}


def name_shards(name: str, count: int, digits: int = 5, ending: str = "safetensors") -> list[str]:
    every = range(1, count + 1)
    return [f"{name}-{n:05}-of-{count:0{digits}}.{ending}" for n in every]


BIN = "pytorch_model.bin"
REPOSITORIES: dict[str, tuple[list[str], list[str]]] = {
    # As of mistralai/Mistral-7B-Instruct-v0.3: the name, what is wanted, and its other files.
    "mistral": (
        [INDEX, "params.json", "tokenizer.model", *name_shards("model", 3)],
        ["README.md", "consolidated.safetensors", "tokenizer.model.v3"],
    ),
    # openai/gpt-oss-20b
    "gpt-oss": (
        ["chat_template.jinja", INDEX, *name_shards("model", 3)],
        ["metal/model.bin", "original/config.json", "original/model.safetensors"],
    ),
    # meta-llama/Llama-2-7b-hf
    "llama2": (
        [INDEX, f"{BIN}.index.json", "tokenizer.model", *name_shards("model", 2)],
        name_shards("pytorch_model", 2, ending="bin"),
    ),
    # meta-llama/Llama-3.1-8B
    "llama3": (
        [INDEX, *name_shards("model", 4)],
        ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"],
    ),
    # A small model with copies for every other framework.
    "copies": (
        [WEIGHTS],
        [
            *("flax_model.msgpack", BIN, "tf_model.h5", "onnx/model.onnx", "onnx/config.json"),
            *("model.fp16.safetensors", "x.Q4_K_M.gguf", "modeling_x.py"),
        ],
    ),
    # Whole and in parts: transformers reads the whole.
    "both": ([WEIGHTS, INDEX], name_shards("model", 2)),
    # deepseek-ai/DeepSeek-V3 counts with six digits.
    "deepseek": (
        [INDEX, *name_shards("model", 163, 6)],
        ["inference/configs/config_16B.json"],
    ),
}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_one_copy_of_the_weights_is_fetched_and_no_code(
    name: str, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, others = REPOSITORIES[name]
    fetched: set[str] = set()

    def download(repo: str, revision: str = "", **patterns: Any) -> str:
        assert repo == "some/model"
        assert revision in ("", tmp_path.name)
        for file in filter_repo_objects([*OURS, *others, *wanted], **patterns):
            fetched.add(file)
            shards = {str(n): each for n, each in enumerate(sorted(wanted)) if "-of-" in each}
            data = json.dumps({"weight_map": shards}) if file == INDEX else "{}"
            whole = llm / file
            (tmp_path / file).write_bytes(whole.read_bytes() if whole.is_file() else data.encode())
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_tokenizer("some/model") == tmp_path
    assert not {file for file in fetched if file.endswith((".safetensors", ".bin", ".pth"))}
    assert resolve_model("some/model") == tmp_path
    assert fetched == OURS | {*wanted}
    read = {file.name for file in find_weights(tmp_path)}
    assert read == {file for file in wanted if file.endswith(".safetensors")}


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (GatedRepoError, "some/model is gated: accept its licence"),
        (RepositoryNotFoundError, "neither a directory nor a hub model 'some/model'"),
        (HFValidationError, "neither a directory nor a hub model 'some/model'"),
        (ConnectionError, "hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    error: type[Exception], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = error.__new__(error)
    Exception.__init__(made, "what the hub said")

    def download(*_: object, **__: object) -> None:
        raise made

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=named):
        resolve_model("some/model")
