from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gpus import pretend_gpus
from safetensors.torch import load_file, save_file

from stages.devices import ALL, Choice
from stages.errors import ModelError
from stages.lm import load_language_model, memory
from stages.lm.memory import GIB, add_margin, check_fit, count_bytes, measure_free, place_model

BIG = Path("big")
AUTO = Choice("cuda", "auto: Some GPU is there")
V2 = "sys/fs/cgroup"


def write_system(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in (files | {"proc/self/cgroup": groups}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def write_group(folder: str, limit: str, used: int, cached: int) -> dict[str, str]:
    texts = {"max": limit, "current": used, "stat": f"anon 5\ninactive_file {cached}"}
    return {f"{folder}/memory.{name}": f"{text}\n" for name, text in texts.items()}


def leave(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    """Let the system have so many bytes available."""
    found = SimpleNamespace(available=available)
    monkeypatch.setattr("psutil.virtual_memory", lambda: found)


class TestFree:
    @pytest.mark.parametrize(
        ("groups", "files", "room"),
        [
            ("0::/\n", {}, 16000 * 1024),
            ("0::/a/b\n", write_group(f"{V2}/a/b", "max", 500, 100), 16000 * 1024),
            ("0::/a/b\n", write_group(f"{V2}/a/b", "9000", 500, 100), 8600),
            ("0::/\n", write_group(V2, "5000", 500, 100), 4600),
            ("0::/\n", write_group(V2, "5000", 5500, 100), 0),
            # The path is the host's, as a container sees it: only its top is mounted.
            ("0::/docker/5f\n", write_group(V2, "800", 50, 10), 760),
            ("2:memory:/\n0::/u\n", write_group(f"{V2}/u", "300", 50, 10), 260),
        ],
    )
    def test_limits_of_control_groups_hold(
        self,
        groups: str,
        files: dict[str, str],
        room: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        leave(monkeypatch, 16000 * 1024)
        assert measure_free("cpu", write_system(tmp_path, groups, files)) == room

    def test_here_and_on_gpus_it_is_what_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert 0 < measure_free("cpu") < 2**50
        pretend_gpus(monkeypatch, free=(3, 5))
        found = [measure_free(device) / GIB for device in ("cuda", "cuda:0", "cuda:1", ALL)]
        assert found == [3, 3, 5, 8]
        assert memory.share_memory() == {0: 3 * GIB * 8 // 9, 1: 5 * GIB * 8 // 9}


class TestCount:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("quantise", ["none", "int8"])
    def test_it_is_what_the_loaded_model_takes(self, dtype: str, quantise: str, llm: Path) -> None:
        model = load_language_model(llm, "cpu", dtype, quantise)
        taken = 0
        for weight in model.parameters():
            parts = [weight.qdata, weight.scale] if hasattr(weight, "qdata") else [weight]
            taken += sum(part.nbytes for part in parts)
        assert count_bytes(llm, dtype, quantise) == taken

    def test_shards_count_once_beside_a_second_copy(self, llm: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(llm, tmp_path / "copy"))
        whole = count_bytes(copy, "float32")
        (copy / "model.safetensors").rename(copy / "consolidated.safetensors")
        weights = load_file(copy / "consolidated.safetensors")
        names = {name: f"model-{k % 2}.safetensors" for k, name in enumerate(weights)}
        for shard in set(names.values()):
            save_file({k: weights[k] for k in names if names[k] == shard}, copy / shard)
        index = copy / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": names}))
        assert count_bytes(copy, "float32") == whole
        index.write_text("[]")
        with pytest.raises(ModelError, match="cannot load a causal LM from"):
            count_bytes(copy, "float32")

    def test_what_is_not_converted_counts_as_it_is(self, tmp_path: Path) -> None:
        weights = {"a": torch.zeros(3, 5, dtype=torch.float16), "b": torch.zeros(7).to(torch.uint8)}
        save_file(weights, tmp_path / "model.safetensors")
        assert count_bytes(tmp_path, "float32") == 3 * 5 * 4 + 7

    @pytest.mark.parametrize(
        "data",
        [b"", b"\0" * 64, b"\xff" * 64, b'\x0a\0\0\0\0\0\0\0{"a": {"b"}', b"\2\0\0\0\0\0\0\0[]"],
    )
    def test_a_damaged_file_is_named(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(ModelError, match=r"cannot load a causal LM from .* its safetensors: "):
            count_bytes(tmp_path, "float32")


class TestFit:
    @pytest.fixture(autouse=True)
    def big(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every model has 7.2 G weights, 7 G of them for int8; the processor has 40 GiB."""

        def count(folder: Path, dtype: str, quantise: str = "none") -> int:
            size = memory.BYTES[dtype]
            return (int(0.2 * size + 7 * (size if quantise == "none" else 1))) * GIB

        monkeypatch.setattr(memory, "count_bytes", count)
        leave(monkeypatch, 40 * GIB)
        monkeypatch.setattr(memory, "_measure_groups", lambda _: [])

    @pytest.mark.parametrize(
        ("free", "device", "dtype", "offers"),
        [
            ((20,), "cuda", "float32", "dtype bfloat16, quantise int8, device cpu (40.0 GiB"),
            ((12,), "cuda", "bfloat16", "quantise int8, device cpu"),
            ((12, 12), "cuda:1", "bfloat16", "quantise int8, device all (2 CUDA devices, 24.0"),
            ((3, 3), "cuda", "bfloat16", "what would fit: device cpu"),
            ((3, 3), ALL, "bfloat16", "what would fit: device cpu"),
        ],
    )
    def test_the_message_says_how_much_is_missing_and_what_would_fit(
        self,
        free: tuple[float, ...],
        device: str,
        dtype: str,
        offers: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pretend_gpus(monkeypatch, free=free)
        with pytest.raises(ModelError) as caught:
            check_fit(BIG, device, dtype)
        said = str(caught.value)
        room = sum(free) if device == ALL else free[0]
        needed = add_margin(memory.count_bytes(BIG, dtype)) / GIB
        assert f"needs {needed:.2f} GiB in {dtype}" in said
        assert f"{room:.2f} GiB are free, {needed - room:.2f} GiB are missing" in said
        assert offers in said
        assert "\n" not in said

    def test_what_fits_is_not_refused_and_where_nothing_fits_it_says_so(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend_gpus(monkeypatch, free=(17,))
        check_fit(BIG, "cuda", "bfloat16")
        check_fit(BIG, "cuda", "float32", "int8")
        check_fit(BIG, "cpu", "float32")
        leave(monkeypatch, GIB)
        with pytest.raises(ModelError, match=r"does not fit on cpu: .*; use a smaller model$"):
            check_fit(BIG, "cpu", "float32")
        # A rank of torchrun is not offered the devices of others.
        pretend_gpus(monkeypatch, free=(12, 12))
        for rank, offered in ((None, True), ("0", False)):
            if rank is not None:
                monkeypatch.setenv("LOCAL_RANK", rank)
            with pytest.raises(ModelError) as caught:
                check_fit(BIG, "cuda:0", "bfloat16")
            assert ("device all" in str(caught.value)) == offered

    def test_auto_splits_what_only_all_devices_have_room_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend_gpus(monkeypatch, free=(12, 12))
        found = place_model(BIG, "auto", AUTO, "bfloat16", "none")
        free = "cuda has 12.0 GiB free, 2 CUDA devices have 24.0 GiB together"
        assert found == Choice(ALL, f"auto: the model needs 15.8 GiB, {free}")

    def test_otherwise_the_device_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cpu = Choice("cpu", "auto: no CUDA device is there")
        for free, asked, quantise, rank in (
            ((80, 80), "auto", "none", None),  # it fits
            ((12, 12), "cuda", "none", None),  # asked for
            ((12, 12), "auto", "int8", None),  # it fits quantised
            ((12,), "auto", "none", None),  # only one is there
            ((3, 3), "auto", "none", None),  # it fits nowhere
            ((12, 12), "auto", "none", "0"),  # torchrun
        ):
            pretend_gpus(monkeypatch, free=free)
            if rank is not None:
                monkeypatch.setenv("LOCAL_RANK", rank)
            assert place_model(BIG, asked, AUTO, "bfloat16", quantise) == AUTO
            assert place_model(BIG, "auto", cpu, "bfloat16", quantise) == cpu
