from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LONGEST, Stopping, fake_rates, make_teacher, make_teacher_config, run_out

from cache.opening import create_or_open
from stages.errors import ModelError
from stages.inputs.attachments import pack_attachments
from stages.reporter import Interrupted, SilentReporter
from stages.teacher import autotune as tuning
from stages.teacher.autotune import Tuning, find_tuning, read_tuning
from stages.teacher.plan import prepare_teacher
from stages.teacher.stage import run_teacher
from stages.teacher.teacher import Teacher

LENGTHS = np.random.default_rng(0).integers(1, LONGEST + 1, 200)
FOUND = re.compile(r"batch: ([\d,]+) positions, measured to be fastest \(.* by size: (.*)\)")


def read_rates(reporter: SilentReporter) -> tuple[int, dict[int, int]]:
    # Once more where another pass turned out to be faster.
    *_, line = [line for line in reporter.lines if "measured to be fastest" in line]
    match = FOUND.fullmatch(line)
    assert match, line
    pairs = re.findall(r"([\d,]+): ([\d,]+)(?:, |$)", match[2])
    number = {key: int(key.replace(",", "")) for pair in pairs for key in pair}
    return int(match[1].replace(",", "")), {number[a]: number[b] for a, b in pairs}


def fail(teacher: Teacher) -> Teacher:
    def raise_error(*_: Any) -> None:
        raise RuntimeError("shapes differ")

    teacher.model.register_forward_pre_hook(raise_error)
    return teacher


class TestSizes:
    @pytest.mark.parametrize("family", ["llama", "bloom"])
    def test_one_of_the_tried_sizes_is_taken_and_all_rates_are_said(self, family: str) -> None:
        reporter = SilentReporter()
        found = find_tuning(make_teacher(family), LENGTHS, None, "off", reporter)
        said, rates = read_rates(reporter)
        assert said == found.batch_positions
        assert found.batch_positions in rates
        assert found.positions_per_second == pytest.approx(rates[found.batch_positions], abs=1)
        assert list(rates) == [512 * 2**step for step in range(len(rates))]
        assert max(rates.values()) <= (rates[said] + 1) * tuning.GAIN
        assert found.compiled is False
        assert reporter.warnings == []

    @pytest.mark.parametrize(
        ("rate", "taken", "tried"),
        [
            (lambda size: 1e6, 512, 2048),
            (lambda size: 1e6 * min(size, 8192), 8192, 32768),
            (lambda size: 1e6 * size, 2**18, 2**18),
            (lambda size: 1e9 / size, 512, 2048),
            (lambda size: 100.0 * size, 2**18, 2**18),
            # Seconds a batch: no larger one is tried.
            (lambda size: 100.0, 512, 512),
        ],
    )
    def test_the_smallest_that_is_as_fast_as_any_is_taken(
        self,
        rate: Callable[[int], float],
        taken: int,
        tried: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sizes = fake_rates(monkeypatch, rate)
        many = np.full(10**6, 10)
        # It has one pass, so that none is chosen by the clock.
        found = find_tuning(make_teacher("mamba"), many, None, "off", SilentReporter())
        assert (found.batch_positions, max(sizes)) == (taken, tried)

    def test_no_more_is_tried_than_there_is_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = fake_rates(monkeypatch, lambda size: 1e6 * size)
        find_tuning(make_teacher("mamba"), np.full(30, 20), None, "off", SilentReporter())
        assert max(sizes) == 1024

    def test_memory_that_runs_out_ends_the_trial_but_not_at_once(self) -> None:
        teacher, reporter = make_teacher("llama"), SilentReporter()
        run_out(teacher, 1100)
        found = find_tuning(teacher, np.full(10_000, 4), None, "off", reporter)
        assert found.batch_positions in (512, 1024)
        if len(read_rates(reporter)[1]) == 2:
            assert "batch: cpu has no memory for 2,048 positions at once" in reporter.lines
        for room in (500, 100):
            teacher, reporter = make_teacher("llama"), SilentReporter()
            run_out(teacher, room)
            found = find_tuning(teacher, LENGTHS, None, "off", reporter)
            assert 1 <= found.batch_positions <= 512
            assert "batch: cpu has no memory for 512 positions at once" in reporter.lines
        run_out(teacher, 10)
        with pytest.raises(ModelError, match=r"cpu has no memory for a row of \d+ tokens"):
            find_tuning(teacher, LENGTHS, None, "off", SilentReporter())

    def test_a_size_that_is_asked_for_is_taken_even_if_it_does_not_fit(self) -> None:
        for room in (10**6, 100):
            teacher, reporter = make_teacher("llama"), SilentReporter()
            run_out(teacher, room)
            found = find_tuning(teacher, LENGTHS, 300, "off", reporter)
            assert (found.batch_positions, found.compiled) == (300, False)
            assert "batch: 300 positions, as asked" in reporter.lines

    def test_a_stop_and_an_error_of_another_kind_are_not_taken_for_memory(self) -> None:
        with pytest.raises(Interrupted):
            find_tuning(make_teacher("llama"), LENGTHS, None, "off", Stopping())
        with pytest.raises(RuntimeError, match="shapes differ"):
            find_tuning(fail(make_teacher("llama")), LENGTHS, None, "off", SilentReporter())


def test_notes_that_are_written_are_read_and_what_makes_no_sense_is_not_there() -> None:
    for tuned in (Tuning(512), Tuning(2**18, True, 1234.5)):
        notes = {"tuning": asdict(tuned) | {"found_on": "cpu, 2 threads"}, "model": "mini"}
        assert read_tuning(notes) == Tuning(tuned.batch_positions, tuned.compiled)
    for noted in (
        *(None, [], "512", 512, {}, {"batch_positions": 512}, {"compiled": True}),
        *({"batch_positions": n, "compiled": False} for n in (0, -8, True, 8.0, "8", [8])),
        *({"batch_positions": 512, "compiled": value} for value in (1, None, "yes")),
    ):
        assert read_tuning({"tuning": noted}) is None
    assert read_tuning({}) is None


def test_a_manifest_that_does_not_say_is_no_error_and_a_complete_cache_needs_no_model(
    llm: Path, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_teacher_config(mood, llm, tmp_path, rows=64)
    plan = prepare_teacher(config, SilentReporter())
    create_or_open(
        tmp_path / "mood",
        plan.manifest,
        lambda kept: pack_attachments(plan.teacher.table, plan.tokenizer, None),
    )
    reporter = SilentReporter()
    assert run_teacher(config, reporter).computed == 64
    assert "the manifest does not say how large batches are" in reporter.lines
    assert "batch: 512 positions, as asked" in reporter.lines
    fake_rates(monkeypatch, lambda size: 1 / 0)
    assert run_teacher(config, SilentReporter()).computed == 0
