from __future__ import annotations

import json
from collections.abc import Callable
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


REPOSITORIES: dict[str, tuple[list[str], set[str]]] = {
    # As of mistralai/Mistral-7B-Instruct-v0.3: the name, its other files, and what is wanted.
    "mistral": (
        [
            "README.md",
            "consolidated.safetensors",
            INDEX,
            "params.json",
            "tokenizer.model",
            "tokenizer.model.v3",
            *name_shards("model", 3),
        ],
        {INDEX, "params.json", "tokenizer.model", *name_shards("model", 3)},
    ),
    # openai/gpt-oss-20b
    "gpt-oss": (
        [
            "chat_template.jinja",
            "metal/model.bin",
            INDEX,
            *name_shards("model", 3),
            "original/config.json",
            "original/dtypes.json",
            "original/model.safetensors",
        ],
        {"chat_template.jinja", INDEX, *name_shards("model", 3)},
    ),
    # meta-llama/Llama-2-7b-hf
    "llama2": (
        [
            INDEX,
            "pytorch_model.bin.index.json",
            "tokenizer.model",
            *name_shards("model", 2),
            *name_shards("pytorch_model", 2, ending="bin"),
        ],
        {INDEX, "pytorch_model.bin.index.json", "tokenizer.model", *name_shards("model", 2)},
    ),
    # meta-llama/Llama-3.1-8B
    "llama3": (
        [
            INDEX,
            "original/consolidated.00.pth",
            "original/params.json",
            "original/tokenizer.model",
            *name_shards("model", 4),
        ],
        {INDEX, *name_shards("model", 4)},
    ),
    # A small model with copies for every other framework.
    "copies": (
        [
            WEIGHTS,
            "flax_model.msgpack",
            "pytorch_model.bin",
            "tf_model.h5",
            "onnx/model.onnx",
            "model.fp16.safetensors",
            "x.Q4_K_M.gguf",
            "onnx/config.json",
            "modeling_x.py",
        ],
        {WEIGHTS},
    ),
    # Whole and in parts: transformers reads the whole.
    "both": ([WEIGHTS, INDEX, *name_shards("model", 2)], {WEIGHTS, INDEX}),
    # deepseek-ai/DeepSeek-V3 counts with six digits.
    "deepseek": (
        [INDEX, "inference/configs/config_16B.json", *name_shards("model", 163, 6)],
        {INDEX, *name_shards("model", 163, 6)},
    ),
}


class TestFetching:
    @pytest.mark.parametrize("name", REPOSITORIES)
    def test_one_copy_of_the_weights_is_fetched_and_no_code(
        self, name: str, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others, wanted = REPOSITORIES[name]
        fetched: set[str] = set()

        def download(repo: str, revision: str = "", **patterns: Any) -> str:
            assert repo == "some/model"
            assert revision in ("", tmp_path.name)
            for file in filter_repo_objects([*OURS, *others], **patterns):
                fetched.add(file)
                shards = {str(n): each for n, each in enumerate(sorted(wanted)) if "-of-" in each}
                data = json.dumps({"weight_map": shards}) if file == INDEX else "{}"
                whole = llm / file
                (tmp_path / file).write_bytes(
                    whole.read_bytes() if whole.is_file() else data.encode()
                )
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        assert resolve_tokenizer("some/model") == tmp_path
        assert not {file for file in fetched if file.endswith((".safetensors", ".bin", ".pth"))}
        assert resolve_model("some/model") == tmp_path
        assert fetched == OURS | wanted
        read = {file.name for file in find_weights(tmp_path)}
        assert read == {file for file in wanted if file.endswith(".safetensors")}


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[object]]:
        """Replaces the hub by one answer."""

        def answer(what: object) -> list[object]:
            asked: list[object] = []

            def download(name: str, **patterns: object) -> object:
                asked.append(name)
                if isinstance(what, Exception):
                    raise what
                return what

            monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
            return asked

        return answer

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
        self,
        error: type[Exception],
        named: str,
        hub: Callable[[object], list[object]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
        made = error.__new__(error)
        Exception.__init__(made, "what the hub said")
        hub(made)
        with pytest.raises(ModelError, match=named):
            resolve_model("some/model")
