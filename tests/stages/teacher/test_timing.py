"""Of the passes that are right, the one that is faster on the run's own rows is used."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LONGEST, Stopping, begin_cache, fake_rates, make_teacher, make_teacher_config

from stages.reporter import Interrupted, SilentReporter
from stages.teacher.autotune import Tuning, apply_tuning, choose_pass, find_tuning
from stages.teacher.forward import PackedPass, PrefixPass
from stages.teacher.stage import run_teacher

LENGTHS = np.random.default_rng(0).integers(1, LONGEST + 1, 200)
TOLD = re.compile(
    r"forward pass: (\w+), (kept|used instead) \(rows a second by pass, on [\d,]+ rows of this "
    r"run's lengths: trimmed: [\d,]+, copied: [\d,]+\)"
)


@pytest.fixture
def slow_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = PackedPass.run

    def wait(self: PackedPass, inputs: Any) -> torch.Tensor:
        time.sleep(0.05)
        return run(self, inputs)

    monkeypatch.setattr(PackedPass, "run", wait)


@pytest.mark.usefixtures("slow_packing")
def test_the_faster_pass_is_used_and_its_rates_are_said() -> None:
    teacher, reporter = make_teacher("llama"), SilentReporter()
    ids = np.arange(5 * LONGEST).reshape(5, -1) % len(teacher.table)
    wanted = teacher.compute_class_logits(teacher.look_up(ids))
    found = find_tuning(teacher, LENGTHS, None, "off", reporter)
    assert found.way == teacher.forward_pass.name == "copied"
    (told,) = [match for line in reporter.lines if (match := TOLD.fullmatch(line))]
    assert told.groups() == ("copied", "used instead")
    assert sum("measured to be fastest" in line for line in reporter.lines) == 2
    assert teacher.model.config._attn_implementation == "sdpa"
    answers = teacher.compute_class_logits(teacher.look_up(ids))
    torch.testing.assert_close(answers, wanted, atol=1e-4, rtol=0)


def test_what_is_asked_for_or_alone_leaves_nothing_to_the_clock_and_timing_can_be_stopped() -> None:
    teacher, reporter = make_teacher("llama"), SilentReporter()
    assert find_tuning(teacher, LENGTHS, 512, "off", reporter).way == "trimmed"
    assert not any(TOLD.fullmatch(line) for line in reporter.lines)
    with pytest.raises(Interrupted):
        choose_pass(teacher, LENGTHS, 512, 1e4, Stopping())
    reporter = SilentReporter()
    assert not choose_pass(make_teacher("mamba"), LENGTHS, 512, 1e4, reporter)
    assert reporter.lines == []


@pytest.mark.usefixtures("slow_packing")
def test_a_continued_run_does_as_the_first_found(llm: Path, mood: Path, tmp_path: Path) -> None:
    """What was found is a note of the manifest, which is all that another worker has."""
    config = make_teacher_config(mood, llm, tmp_path / "a", batch_positions=None)
    first, cache = begin_cache(config)
    notes = cache.manifest.notes["tuning"]
    assert (notes["way"], notes["compiled"]) == ("copied", False)
    assert notes["positions_per_second"] > 0
    size = f"{notes['batch_positions']:,}"
    *_, said = [line for line in first.lines if "measured to be fastest" in line]
    assert said.startswith(f"batch: {size} positions, ")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for root in ("a", "b"):
        reporter = SilentReporter()
        own = make_teacher_config(mood, llm, tmp_path / root, batch_positions=None)
        assert 0 < run_teacher(own, reporter).computed < 200
        way = "forward pass: the prompt is run once, its keys and values are copied for every row"
        for line in (way, f"batch: {size} positions, not compiled"):
            assert f"{line}, as found when the cache was created" in reporter.lines
        assert not any("fastest" in line or TOLD.fullmatch(line) for line in reporter.lines)


def test_a_pass_that_cannot_be_had_here_is_warned_of() -> None:
    teacher, reporter = make_teacher("llama"), SilentReporter()
    apply_tuning(teacher, Tuning(512, way="packed"), reporter)
    (line,) = reporter.warnings
    assert "'packed', which is not right here; going on with trimmed" in line
    apply_tuning(teacher, Tuning(512, way="copied"), reporter)
    assert isinstance(teacher.forward_pass, PrefixPass)
    before = SilentReporter()  # a manifest that an earlier version wrote
    apply_tuning(make_teacher("llama"), Tuning(512), before)
    assert before.warnings == []


def test_the_size_that_is_fastest_is_taken_though_by_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {512: 33_254.0, 1024: 34_556.0, 2048: 34_123.0}
    fake_rates(monkeypatch, lambda size: known[size])
    reporter = SilentReporter()
    found = find_tuning(make_teacher("mamba"), np.full(10**6, 10), None, "off", reporter)
    assert found.batch_positions == 1024
    assert reporter.lines[0] == (
        "batch: 1,024 positions, measured to be fastest (positions a second by size: "
        "512: 33,254, 1,024: 34,556, 2,048: 34,123)"
    )
