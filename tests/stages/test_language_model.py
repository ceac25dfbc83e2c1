from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from tiny import make_tokenizer, write_language_model
from transformers import PreTrainedTokenizerFast

from stages import language_model as lm
from stages.errors import ModelError, SettingError
from stages.reporting import SilentReporter

GIB = 2**30
Cuda = Callable[..., None]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Pretends that there is a CUDA device."""

    def pretend(room: int = 80, bf16: bool = True, count: int = 1) -> None:
        for name, value in {
            "is_available": True,
            "get_device_name": "Some GPU",
            "device_count": count,
            "is_bf16_supported": bf16,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (GIB, room * GIB))

    return pretend


class TestChoices:
    def test_without_a_gpu(self) -> None:
        assert lm.choose_device("auto") == lm.Choice("cpu", "auto: no CUDA device is there")
        assert lm.choose_model("auto", "cpu").value == "mini"
        assert lm.choose_dtype("auto", "cpu").value == "float32"

    def test_with_a_gpu_that_has_room(self, cuda: Cuda) -> None:
        cuda()
        assert lm.choose_device("auto") == lm.Choice("cuda", "auto: Some GPU is there")
        found = lm.choose_model("auto", "cuda")
        assert found == lm.Choice("meta-llama/Llama-2-7b-hf", "auto: cuda has 80 GiB")
        assert lm.choose_dtype("auto", "cuda").value == "bfloat16"
        assert lm.choose_model("auto", "cpu").value == "mini"

    def test_with_a_gpu_that_is_small_or_old(self, cuda: Cuda) -> None:
        cuda(room=8, bf16=False)
        found = lm.choose_model("auto", "cuda:0")
        assert found.value == "mini"
        assert "needs 16 GiB, cuda:0 has 8.0 GiB" in found.reason
        assert lm.choose_dtype("auto", "cuda").value == "float16"

    def test_what_is_asked_for_is_taken(self, cuda: Cuda) -> None:
        cuda(count=2)
        assert lm.choose_device("cuda:1") == lm.Choice("cuda:1", "as asked")
        assert lm.choose_model("gpt2", "cuda") == lm.Choice("gpt2", "as asked")
        assert lm.choose_dtype("float16", "cpu") == lm.Choice("float16", "as asked")
        with pytest.raises(SettingError, match=r"torch sees 2 CUDA device\(s\)"):
            lm.choose_device("cuda:2")

    @pytest.mark.parametrize("device", ["auto", "cuda"])
    def test_every_rank_of_torchrun_has_a_gpu_of_its_own(
        self, device: str, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cuda(count=2)
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert lm.choose_device(device) == lm.Choice("cuda:1", "torchrun's local rank 1")
        assert lm.choose_device("cuda:0") == lm.Choice("cuda:0", "as asked")
        assert lm.choose_device("cpu") == lm.Choice("cpu", "as asked")
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(SettingError, match=r"rank 2 .* 4 processes .* sees 2 CUDA device\(s\)"):
            lm.choose_device(device)
        assert lm.choose_device("cuda:1").value == "cuda:1"
        monkeypatch.setenv("LOCAL_RANK", "one")
        with pytest.raises(SettingError, match="LOCAL_RANK: got 'one'"):
            lm.choose_device(device)

    def test_ranks_without_a_gpu_share_the_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert lm.choose_device("auto") == lm.Choice("cpu", "auto: no CUDA device is there")
        with pytest.raises(SettingError, match=r"rank 1 .* sees 0 CUDA device\(s\)"):
            lm.choose_device("cuda")


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[object]]:
        """Replaces the hub by one answer."""

        def answer(what: object) -> list[object]:
            asked: list[object] = []

            def download(name: str, allow_patterns: list[str]) -> object:
                asked.extend([name, allow_patterns])
                if isinstance(what, Exception):
                    raise what
                return what

            monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
            return asked

        return answer

    def test_a_hub_model_is_fetched_without_code(
        self, hub: Callable[[object], list[object]], llm: Path
    ) -> None:
        asked = hub(str(llm))
        assert lm.resolve_model("some/model") == llm
        name, patterns = asked
        assert name == "some/model"
        assert isinstance(patterns, list)
        assert "*.safetensors" in patterns
        assert not {"*.py", "*.bin", "*.pt"} & set(patterns)
        asked = hub(str(llm))
        assert lm.resolve_tokenizer("some/model") == llm
        assert "*.safetensors" not in str(asked[1])

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
    ) -> None:
        made = error.__new__(error)
        Exception.__init__(made, "what the hub said")
        hub(made)
        with pytest.raises(ModelError, match=named):
            lm.resolve_model("some/model")


class TestIdentity:
    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("model.safetensors", "weights"),
            ("config.json", "config"),
            ("tokenizer.json", "tokenizer"),
            ("tokenizer_config.json", "tokenizer"),
        ],
    )
    def test_it_changes_with_what_answers_depend_on(
        self, name: str, part: str, llm: Path, tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(llm, tmp_path / "copy"))
        before = lm.describe_identity(copy, SilentReporter())
        assert before == lm.describe_identity(llm, SilentReporter())
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        after = lm.describe_identity(copy, SilentReporter())
        assert {key for key in before if before[key] != after[key]} == {part}

    def test_it_does_not_change_with_what_they_do_not(self, llm: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(llm, tmp_path / "copy"))
        (copy / "README.md").write_text("a card")
        (copy / "generation_config.json").unlink()
        assert lm.describe_identity(copy, SilentReporter()) == lm.describe_identity(
            llm, SilentReporter()
        )

    def test_weights_in_shards_count_with_their_names(self, llm: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(llm, tmp_path / "copy"))
        shutil.copy(copy / "model.safetensors", copy / "model-2.safetensors")
        one = lm.describe_identity(copy, SilentReporter())["weights"]
        (copy / "model-2.safetensors").rename(copy / "model-3.safetensors")
        assert len({one, lm.describe_identity(copy, SilentReporter())["weights"]}) == 2


@pytest.mark.parametrize(("start", "token"), [("<s>", "<s>"), (None, "</s>")])
def test_an_input_begins_with_bos_or_eos(start: str | None, token: str) -> None:
    tokenizer = make_tokenizer(start=start)
    assert lm.find_start_id(tokenizer) == tokenizer.convert_tokens_to_ids(token)
    prompt = lm.encode_prompt("Good", tokenizer)
    assert tokenizer.decode(prompt) == ("<s>Good" if start else "Good")


def test_a_tokenizer_with_neither_is_refused() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    with pytest.raises(ModelError, match="neither a BOS nor an EOS"):
        lm.find_start_id(bare)


@pytest.mark.parametrize("family", ["gemma2", "mamba"])
def test_a_family_without_fused_attention_is_loaded_all_the_same(
    family: str, tmp_path: Path
) -> None:
    folder = write_language_model(tmp_path, family)
    assert lm.choose_attention(folder) == "eager"
    model = lm.load_language_model(folder, "cpu", "float32")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_is_loaded_in_the_format_asked_for(llm: Path) -> None:
    assert lm.choose_attention(llm) == "sdpa"
    for name in lm.DTYPES:
        assert lm.load_language_model(llm, "cpu", name).dtype == getattr(torch, name)


def test_a_model_larger_than_its_device_is_refused_with_its_size(
    llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    with pytest.raises(ModelError, match=r"is 0\.0 GiB in float32 and does not fit on cuda"):
        lm.load_language_model(llm, "cuda", "float32")
