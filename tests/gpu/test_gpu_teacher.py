"""The teacher on the device: its cache, too little memory, eight bits, compiled layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from shaped import make_shaped

pytest.importorskip("zarr")

from tiny import (
    LONGEST,
    Listener,
    draw_ids,
    embed_with,
    make_short_task,
    make_teacher_config,
    make_tokenizer,
    run_out,
)

from cache.reader import CacheReader
from stages.lm.model import load_language_model, resolve_model
from stages.loading import load_tokenizer
from stages.lm.quantisation import FP8_CAPABILITY
from stages.reporter import SilentReporter
from stages.teacher.stage import run_teacher
from stages.tasks.task import load_task
from stages.teacher.teacher import Teacher
from stages.teacher.autotune import _compilable_layers, compile_layers

pytestmark = pytest.mark.gpu

Record = Callable[[str, object], None]


def make_teacher(device: str, dtype: torch.dtype = torch.float32, layers: int = 3) -> Teacher:
    tokenizer = make_tokenizer()
    model = make_shaped("llama", 16, dtype, device, layers, len(tokenizer))
    return Teacher(model, tokenizer, make_short_task())


def load_mini(device: str, dtype: str, quantise: str = "none") -> Teacher:
    folder = resolve_model("mini")
    model = load_language_model(folder, device, dtype, quantise)
    return Teacher(model, load_tokenizer(folder), load_task("ag_news"))


Columns = dict[str, np.ndarray]


def fill_cache(root: Path, device: str, dtype: str) -> Columns:
    own = {"rows": 256, "shard_rows": 128, "batch_positions": 4096}
    own |= {"sampler": "uniform=0.25,vocabulary=0.75", "device": device, "dtype": dtype}
    reporter = SilentReporter()
    cache = run_teacher(make_teacher_config("ag_news", "mini", root, **own), reporter).cache
    assert any("rows of all lengths share a batch" in line for line in reporter.lines)
    reader = CacheReader(cache)
    shards = [reader.read_shard(shard) for shard in reader.shards]
    names = ("seed", "length", "probabilities")
    return {name: np.concatenate([shard[name] for shard in shards]) for name in names}


@pytest.fixture(scope="module")
def reference(device: str, tmp_path_factory: pytest.TempPathFactory) -> Columns:
    """The mini teacher's answers on the processor."""
    return fill_cache(tmp_path_factory.mktemp("reference"), "cpu", "float32")


class TestCache:
    """The whole of stage one: what is written of the very same rows."""

    @pytest.mark.parametrize(
        ("dtype", "agreement", "difference"),
        [("float32", 0.995, 1e-3), ("float16", 0.98, 0.02), ("bfloat16", 0.95, 0.1)],
    )
    def test_answers_are_those_of_the_processor(
        self,
        dtype: str,
        agreement: float,
        difference: float,
        reference: Columns,
        device: str,
        tmp_path: Path,
        record_property: Record,
    ) -> None:
        if device == "cpu" and dtype != "float32":
            pytest.skip("half precision is slow on the processor")
        columns = fill_cache(tmp_path, device, dtype)
        assert np.array_equal(columns["seed"], reference["seed"])
        assert np.array_equal(columns["length"], reference["length"])
        found, wanted = columns["probabilities"], reference["probabilities"]
        same = float((found.argmax(1) == wanted.argmax(1)).mean())
        largest = float(np.abs(found - wanted).max())
        record_property("dtype", dtype)
        record_property("argmax_agreement", same)
        record_property("largest_difference", largest)
        print(
            f"mini teacher, {dtype} on {device} against float32 on the processor, "
            f"{len(wanted)} rows: argmax agreement {same:.2%}, largest difference of a "
            f"probability {largest:.2g}"
        )
        assert same >= agreement
        assert largest <= difference
        if device != "cpu":
            assert largest > 0, "the processor was asked twice"


class TestMemory:
    @contextmanager
    def limit(self, teacher: Teacher, room: int) -> Iterator[None]:
        """Let the device have so many bytes more than it has now; the processor some positions."""
        if teacher.device.type == "cpu":
            run_out(teacher, 300)
            yield
            return
        torch.cuda.empty_cache()
        whole = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / whole)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()

    def test_batches_that_do_not_fit_are_halved_and_no_answer_changes(self, device: str) -> None:
        teacher, listener = make_teacher(device), Listener()
        # On a GPU some 500,000 positions, of which a single tensor of the MLP takes 256 MB.
        sizes = np.random.default_rng(3).integers(0, LONGEST + 1, 90 if device == "cpu" else 30_000)
        embed = embed_with(teacher, draw_ids(len(sizes), LONGEST, len(teacher.table)))
        small = 200 if device == "cpu" else 8192
        wanted = teacher.answer_rows(sizes, embed, small, listener.callbacks)
        assert listener.warnings == []
        listener = Listener()
        with self.limit(teacher, 192 * 2**20):
            found = teacher.answer_rows(sizes, embed, 2**30, listener.callbacks)
        print(*listener.warnings, sep="\n")
        assert listener.warnings
        assert "has no memory for" in listener.warnings[0]
        assert sum(listener.counts) == len(sizes)
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        again = teacher.answer_rows(sizes[:50], embed, small, Listener().callbacks)
        np.testing.assert_allclose(again, wanted[:50], atol=1e-3)


class TestEightBits:
    def compare(self, teacher: Teacher, plain: Teacher, record: Record) -> tuple[float, float]:
        """The share of rows that both answer alike, and the norm of the difference of logits."""
        ids = draw_ids(400, 40, len(plain.table))
        wanted = plain.compute_class_logits(plain.table[ids.to(plain.device)])
        found = teacher.compute_class_logits(teacher.table[ids.to(teacher.device)])
        same = float((found.argmax(1) == wanted.argmax(1)).float().mean())
        # What is common to all classes changes no answer.
        wanted, found = (x - x.mean(dim=1, keepdim=True) for x in (wanted, found))
        apart = float((found - wanted).norm() / wanted.norm())
        print(f"agreement {same:.2%}, logits apart by {apart:.2g} of their norm")
        record("agreement", same)
        record("relative_difference", apart)
        return same, apart

    def test_int8(self, device: str, record_property: Record) -> None:
        pytest.importorskip("torchao")
        small = load_mini(device, "bfloat16" if device == "cuda" else "float32", "int8")
        assert any(hasattr(module.weight, "qdata") for module in self.list_layers(small))
        same, apart = self.compare(small, load_mini(device, "float32"), record_property)
        assert same >= 0.95
        assert 0 < apart < 0.05

    def test_fp8(self, device: str, record_property: Record) -> None:
        pytest.importorskip("torchao")
        if device == "cpu":
            pytest.skip("fp8 is of CUDA devices")
        if torch.cuda.get_device_capability() < FP8_CAPABILITY:
            pytest.skip("this CUDA device multiplies no eight-bit floats")
        small = load_mini(device, "bfloat16", "fp8")
        assert any(hasattr(module.weight, "qdata") for module in self.list_layers(small))
        same, apart = self.compare(small, load_mini(device, "float32"), record_property)
        assert same >= 0.95
        assert 0 < apart < 0.1  # eight-bit numbers alone, imitated on a processor: 0.023

    def list_layers(self, teacher: Teacher) -> list[torch.nn.Linear]:
        return [m for m in teacher.model.modules() if isinstance(m, torch.nn.Linear)]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_layers_answer_as_others_do(dtype: torch.dtype, device: str) -> None:
    if device == "cpu" and dtype != torch.float32:
        pytest.skip("half precision is slow on the processor")
    plain, teacher = (make_teacher(device, dtype, layers=2) for _ in range(2))
    compile_layers(teacher)
    layers = _compilable_layers(teacher)
    assert layers
    assert all(layer._compiled_call_impl is not None for layer in layers)
    for rows, length in ((7, 5), (1, 1), (50, 3), (1, LONGEST)):
        ids = draw_ids(rows, length, len(plain.table)).to(teacher.device)
        found = teacher.compute_class_logits(teacher.table[ids]).softmax(dim=1)
        wanted = plain.compute_class_logits(plain.table[ids]).softmax(dim=1)
        bound = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(found, wanted, atol=bound, rtol=0)


def test_what_is_copied_back_is_whole_before_it_is_read(device: str) -> None:
    """Batches overlap: each one's answers must be its own, however many are on their way."""
    teacher, listener = make_teacher(device), Listener()
    sizes = np.random.default_rng(5).integers(1, LONGEST + 1, 400)
    ids = draw_ids(len(sizes), LONGEST, len(teacher.table))
    found = teacher.answer_rows(sizes, embed_with(teacher, ids), 64, listener.callbacks)
    assert len(listener.counts) > 50
    for row in range(0, len(sizes), 23):
        inputs = teacher.look_up(ids.numpy()[row : row + 1, : sizes[row]])
        wanted = teacher.compute_class_logits(inputs).cpu().numpy()
        np.testing.assert_allclose(found[row : row + 1], wanted, atol=1e-3)
