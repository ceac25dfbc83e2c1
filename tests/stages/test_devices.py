from __future__ import annotations

import pytest
import torch
from gpus import pretend_gpus

from stages.devices import ALL, Choice, choose_device, choose_dtype, choose_model, find_main_device
from stages.errors import SettingError


class TestDevice:
    def test_auto_takes_what_is_there_and_else_what_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert choose_device("auto") == Choice("cpu", "auto: no CUDA device is there")
        pretend_gpus(monkeypatch, free=(1, 1))
        assert choose_device("auto") == Choice("cuda", "auto: Some GPU is there")
        assert choose_device("cuda:1") == Choice("cuda:1", "as asked")
        with pytest.raises(SettingError, match=r"torch sees 2 CUDA device\(s\)"):
            choose_device("cuda:2")
        for name in ("mps", "gpu", ""):
            with pytest.raises(SettingError, match=r"use auto, cpu, cuda or cuda:N$"):
                choose_device(name)

    def test_all_is_every_gpu_for_who_can_split_a_model(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SettingError, match=r"'all' is not there: torch sees 0 CUDA"):
            choose_device(ALL, several=True)
        pretend_gpus(monkeypatch, free=(1,))
        assert choose_device(ALL, several=True).value == "cuda"
        pretend_gpus(monkeypatch, free=(1, 1))
        assert choose_device(ALL, several=True) == Choice(ALL, "as asked: 2 CUDA devices")
        with pytest.raises(SettingError, match=r"use auto, cpu, cuda or cuda:N$"):
            choose_device(ALL)
        with pytest.raises(SettingError, match=r"cuda:N or all$"):
            choose_device("mps", several=True)
        monkeypatch.setenv("LOCAL_RANK", "0")
        with pytest.raises(SettingError, match=r"torchrun starts a worker .* one or the other"):
            choose_device(ALL, several=True)
        kinds = {device: torch.device(find_main_device(device)).type for device in (ALL, "cpu")}
        assert kinds == {ALL: "cuda", "cpu": "cpu"}, "torch is told a device that it knows"

    @pytest.mark.parametrize("device", ["auto", "cuda"])
    def test_every_rank_of_torchrun_has_a_gpu_of_its_own(
        self, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend_gpus(monkeypatch, free=(1, 1))
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert choose_device(device) == Choice("cuda:1", "torchrun's local rank 1")
        assert choose_device("cuda:0") == Choice("cuda:0", "as asked")
        assert choose_device("cpu") == Choice("cpu", "as asked")
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(SettingError, match=r"rank 2 .* 4 processes .* sees 2 CUDA device\(s\)"):
            choose_device(device)
        assert choose_device("cuda:1").value == "cuda:1"
        monkeypatch.setenv("LOCAL_RANK", "one")
        with pytest.raises(SettingError, match="LOCAL_RANK: got 'one'"):
            choose_device(device)

    def test_ranks_without_a_gpu_share_the_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert choose_device("auto") == Choice("cpu", "auto: no CUDA device is there")
        with pytest.raises(SettingError, match=r"rank 1 .* sees 0 CUDA device\(s\)"):
            choose_device("cuda")


def test_a_model_goes_by_what_the_device_has_not_by_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llama = "meta-llama/Llama-2-7b-hf"
    pretend_gpus(monkeypatch, free=(1,), total=80)
    assert choose_model("auto", "cuda") == Choice(llama, "auto: cuda has 80 GiB")
    assert choose_model("auto", "cpu").value == "mini"
    assert choose_model("gpt2", "cuda") == Choice("gpt2", "as asked")
    # Small GPUs count together where all are used.
    pretend_gpus(monkeypatch, free=(1, 1), total=8)
    found = choose_model("auto", "cuda:0")
    assert found.value == "mini" and "needs 16 GiB, cuda:0 has 8.0 GiB" in found.reason
    assert choose_model("auto", ALL).value == llama


class TestDtype:
    def test_gpus_compute_in_what_they_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for has, wanted in ((True, "bfloat16"), (False, "float16")):
            pretend_gpus(monkeypatch, bf16=has)
            found = {choose_dtype("auto", device).value for device in ("cuda", "cuda:0", ALL)}
            assert found == {wanted}

    @pytest.mark.parametrize(
        ("able", "built", "dtype", "reason"),
        [
            ({"avx2": True, "avx512_bf16": False}, True, "float32", "no instructions"),
            ({"amx_bf16": True, "avx512_bf16": True}, True, "bfloat16", "amx_bf16"),
            ({"neon": True, "bf16": True}, True, "bfloat16", "its own instructions, bf16"),
            ({"neon": True, "bf16": True}, False, "float32", "this build of torch does not"),
        ],
    )
    def test_a_processor_by_what_it_can_do(
        self,
        able: dict[str, bool],
        built: bool,
        dtype: str,
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built)
        found = choose_dtype("auto", "cpu")
        assert found.value == dtype
        assert reason in found.reason

    def test_what_is_asked_for_is_taken(self) -> None:
        assert choose_dtype("float16", "cpu") == Choice("float16", "as asked")
        with pytest.raises(SettingError, match="got 'int8', must be auto or one of float32"):
            choose_dtype("int8", "cpu")
