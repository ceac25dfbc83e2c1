from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny import LONGEST, draw_ids, fake_rates, make_teacher, run_out
from torch import nn

from stages.errors import SettingError
from stages.reporter import SilentReporter
from stages.teacher import autotune as tuning
from stages.teacher.autotune import Tuning, apply_tuning, find_tuning
from stages.teacher.capabilities import compiler_problem

LENGTHS = np.random.default_rng(0).integers(1, LONGEST + 1, 200)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler_problem.cache_clear()
    yield
    compiler_problem.cache_clear()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The layers that were to be compiled; a machine that can, and need not."""
    layers: list[nn.Module] = []

    def compile_layer(layer: nn.Module, *, dynamic: bool) -> None:
        assert dynamic, "or torch compiles anew for every size of batch"
        layers.append(layer)

    monkeypatch.setattr(nn.Module, "compile", compile_layer)
    monkeypatch.setattr(tuning, "compiler_problem", lambda kind: "")
    return layers


@pytest.mark.parametrize(("family", "layers"), [("llama", 2), ("gpt2", 3)])
def test_neither_a_last_layer_that_is_cut_down_nor_a_short_run_is_compiled(
    family: str, layers: int, compiled: list[nn.Module]
) -> None:
    teacher, reporter = make_teacher(family), SilentReporter()
    assert not find_tuning(teacher, LENGTHS, 512, "auto", reporter).compiled and not compiled
    assert reporter.lines[-1].startswith("compile: off (about ")
    assert reporter.lines[-1].endswith(" s of work, worth it from 900 s)")
    found = find_tuning(teacher, LENGTHS, 512, "on", reporter)
    assert found.compiled
    assert len(compiled) == layers
    assert any(line.startswith("compile: on (") for line in reporter.lines)


@pytest.mark.parametrize("gain", [1.0, 1.2])
def test_a_long_run_is_compiled_where_that_is_faster(
    gain: float, compiled: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_rates(monkeypatch, lambda size: 1000.0 * (gain if compiled else 1.0))
    teacher, reporter = make_teacher("llama"), SilentReporter()
    found = find_tuning(teacher, np.full(100_000, 20), 512, "auto", reporter)
    assert found.compiled == (gain > 1)
    assert found.positions_per_second == pytest.approx(1000 * (gain if found.compiled else 1))
    assert all(layer._compiled_call_impl is None for layer in compiled)
    state = "on" if gain > 1 else "off"
    assert any(line.startswith(f"compile: {state} ({gain:.2f} times") for line in reporter.lines)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_it_is_refused_or_left_out() -> None:
    teacher, reporter = make_teacher("llama"), SilentReporter()
    with pytest.raises(SettingError, match=r"compile: got .*no-such-compiler.*auto or off"):
        find_tuning(teacher, LENGTHS, 512, "on", reporter)
    assert not find_tuning(teacher, LENGTHS, 512, "auto", reporter).compiled
    assert "no-such-compiler" in reporter.lines[-1]
    apply_tuning(teacher, Tuning(512, compiled=True), reporter)
    (warning,) = reporter.warnings
    assert "begun with compiled layers" in warning
    assert "no-such-compiler" in warning


def test_what_was_compiled_is_compiled_again(compiled: list[nn.Module]) -> None:
    reporter = SilentReporter()
    apply_tuning(make_teacher("llama"), Tuning(512), reporter)
    assert not compiled
    apply_tuning(make_teacher("llama"), Tuning(512, compiled=True), reporter)
    assert len(compiled) == 2
    assert reporter.warnings == []
    assert "512 positions, compiled, as found" in reporter.lines[-1]


@pytest.mark.slow
@pytest.mark.skipif(bool(compiler_problem("cpu")), reason=compiler_problem("cpu") or "-")
def test_compiled_layers_answer_as_others_do() -> None:
    teacher, plain, reporter = make_teacher("llama"), make_teacher("llama"), SilentReporter()
    found = find_tuning(teacher, LENGTHS, 512, "on", reporter)
    assert found.compiled
    assert sum(module._compiled_call_impl is not None for module in teacher.model.modules()) == 2
    for rows, length in ((1, 1), (7, 1), (7, 5), (1, LONGEST), (50, 3)):
        ids = draw_ids(rows, length, len(teacher.table))
        torch.testing.assert_close(
            teacher.compute_class_logits(teacher.table[ids]).softmax(dim=1),
            plain.compute_class_logits(plain.table[ids]).softmax(dim=1),
            atol=1e-5,
            rtol=0,
        )


def test_neither_a_size_that_does_not_fit_nor_a_model_that_is_not_packed_is_compiled(
    compiled: list[nn.Module],
) -> None:
    with pytest.raises(SettingError, match="only rows that are packed"):
        find_tuning(make_teacher("bloom"), LENGTHS, 512, "on", SilentReporter())
    teacher, reporter = make_teacher("llama"), SilentReporter()
    run_out(teacher, 100)
    with pytest.raises(SettingError, match=r"compile: got .* cpu has no memory for 300 positions"):
        find_tuning(teacher, LENGTHS, 300, "on", reporter)
    assert find_tuning(teacher, LENGTHS, 300, "auto", reporter).compiled is False
    assert "compile: off (cpu has no memory for 300 positions at once)" in reporter.lines
    assert not compiled
