from __future__ import annotations

import csv
import json
import math
import shutil
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from processes import Forked, wait_for
from tiny import Stopping, change_weights, make_student_config, make_teacher_config

from cache.errors import CacheChoiceError, CacheError
from cache.lookup import find_cache
from cache.reader import CacheReader
from pipeline.commands.student import student as student_command
from stages.errors import SettingError, TrainingError
from stages.inputs.attachments import read_table
from stages.records import RECORD, read_record
from stages.reporter import Interrupted, SilentReporter
from stages.student import stage
from stages.student.config import TrainingConfig
from stages.student.data import choose_held_out, open_rows, sum_seconds
from stages.student.loop import CURVE
from stages.student.objectives import OBJECTIVES
from stages.student.stage import run_student
from stages.teacher.stage import TeacherResult, run_teacher

Filled = tuple[Path, TeacherResult]
STEPS = 24


def weights_of(student: Path) -> bytes:
    return (student / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(filled: Filled, mood: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    config = make_student_config(
        mood, filled[0], folder / "out", steps=STEPS, curve=folder / "curve.csv"
    )
    run_student(config, SilentReporter())
    return folder


class TestStudents:
    def test_what_happens_is_said_and_kept(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        reporter, out = SilentReporter(), tmp_path / "below" / "out"
        curve = tmp_path / "curves" / "c.csv"
        config = make_student_config(mood, filled[0], out, steps=10, curve=curve)
        result = run_student(config, reporter)
        said = "\n".join(reporter.lines)
        for part in (
            f"cache: {filled[1].cache.place.path} (mood, 200 vocabulary)",
            "device: cpu",
            "precision: float32",
            "student: mini, random start",
            "learning rate: 0.002",
            "step 10: loss",
            "held out: 16 rows, agreement",
            f"student: {out}",
        ):
            assert part in said
        assert (result.out, result.fingerprint) == (out, filled[1].cache.fingerprint)
        record = read_record(out)
        assert record["fingerprint"] == result.fingerprint
        assert record["rows"] == 200
        assert record["training"]["steps"] == 10
        assert (record["labels"], record["texts"]) == ("teacher", "")
        assert record["seconds"]["training"] > 0
        assert record["preparation"]["rows"] == 200
        assert record["preparation"]["seconds"] == sum_seconds(CacheReader(filled[1].cache)) > 0
        assert record["versions"]["threads"] == torch.get_num_threads()
        assert record["held_out"]["agreement"] == result.projection.agreement
        assert [path.name for path in out.parent.iterdir() if "checkpoint" in path.name] == []
        # The curve has a row at every interval and at the end.
        with curve.open() as lines:
            head, *rows = csv.reader(lines)
        assert (tuple(head), head[:2]) == (CURVE, ["step", "loss"])
        assert [row[0] for row in rows] == ["4", "8", "10"]
        assert {row[head.index("c_learned")] for row in rows} == {""}
        last = {key: float(value or 0) for key, value in zip(head, rows[-1], strict=True)}
        # What is written has a temperature, which changes no answer, and the curve is of before.
        assert last["norm_g"] == pytest.approx(result.projection.norm_g, rel=1e-4)
        assert last["agreement"] == pytest.approx(result.projection.agreement, rel=1e-4)
        inner = last["norm_g"] * math.cos(last["angle"])
        assert last["c_closed_form"] * last["norm_h"] == pytest.approx(inner, rel=1e-4)

    def test_a_student_learns_its_teacher_and_its_record_is_json(self, student: Path) -> None:
        record = json.loads((student / RECORD).read_text(), parse_constant=pytest.fail)
        losses = [row["loss"] for row in record["curve"]]
        assert losses[-1] < 0.5 * losses[0]

    def test_inputs_that_a_constant_answers_as_well_are_a_warning(
        self, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        dull = change_weights(llm, tmp_path / "m", lambda model: model.lm_head.weight.mul_(1e-3))
        config = make_teacher_config(mood, dull, tmp_path / "c", rows=64)
        run_teacher(config, SilentReporter())
        reporter = SilentReporter()
        run_student(make_student_config(mood, tmp_path / "c", tmp_path / "out"), reporter)
        (warning,) = [said for said in reporter.warnings if said.startswith("a constant")]
        assert "has an angle of 0.0" in warning
        assert "a small α says nothing about the student" in warning

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_every_objective_trains(
        self, objective: str, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        changes = {"objective": objective, "steps": 24, "log_every": 8}
        config = make_student_config(mood, filled[0], tmp_path / "out", **changes)
        reporter = SilentReporter()
        run_student(config, reporter)
        curve = read_record(tmp_path / "out")["curve"]
        assert curve[-1]["loss"] < curve[0]["loss"]
        learned = objective in ("generalised-kl", "algorithm-1")
        assert any(" learned" in line for line in reporter.lines) is learned
        # Both begin at a half, where more c is better.
        assert not learned or 0.5 < curve[0]["c_learned"] < curve[-1]["c_learned"]
        (asked,) = (option for option in student_command.params if option.name == "objective")
        assert isinstance(asked.type, click.Choice) and objective in asked.type.choices

    def test_another_seed_or_rate_is_another_student_and_the_same_is_the_same(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        found = []
        for k, changes in enumerate([{}, {}, {"seed": 1}, {"learning_rate": 1e-3}]):
            config = make_student_config(mood, filled[0], tmp_path / str(k), steps=2, **changes)
            found.append(weights_of(run_student(config, SilentReporter()).out))
        assert found[0] == found[1]
        assert len(set(found)) == 3

    def test_texts_of_mixed_lengths_train_a_student(
        self, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        texts = tmp_path / "t.txt"
        texts.write_text("".join(f"{'Good Bad Poor '[k % 5 :]} {k}\n" for k in range(60)) + "\n")
        config = make_teacher_config(mood, llm, tmp_path / "c", texts=texts, chunk_rows=16)
        run_teacher(config, SilentReporter())
        config = make_student_config(mood, tmp_path / "c", tmp_path / "out", steps=4)
        result = run_student(config, SilentReporter())
        assert read_record(result.out)["sampler"] == "texts"
        assert "60 texts, without their labels" in (result.out / "README.md").read_text()

    def test_a_directory_of_something_else_is_refused_before_training(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
        reporter = SilentReporter()
        with pytest.raises(Exception, match="is no student"):
            run_student(make_student_config(mood, filled[0], out), reporter)
        assert not any(line.startswith("step") for line in reporter.lines)
        assert (out / "thesis.tex").read_text() == "years of work"

    def test_a_rate_that_is_too_high_ends_with_the_step_and_writes_nothing(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        config = make_student_config(mood, filled[0], tmp_path / "out", learning_rate=1e36)
        with pytest.raises(TrainingError, match=r"step \d+: .*NaN or infinite.*lower the"):
            run_student(config, SilentReporter())
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"steps": 0}, "steps: got 0"),
            ({"batch_size": 10, "lengths_per_batch": 4}, "got 10, must be a multiple of 4"),
            ({"learning_rate": math.nan}, "learning rate: got nan"),
            ({"warm_up": 1.0}, "warm-up: got 1.0"),
        ],
    )
    def test_a_setting_out_of_its_range_is_named(self, changes: dict[str, Any], named: str) -> None:
        with pytest.raises(SettingError, match=named):
            TrainingConfig(**changes)


class TestInterruption:
    def command(self, filled: Filled, mood: Path, folder: Path) -> list[object]:
        options = ["--steps", STEPS, "--batch-size", 16, "--held-out-rows", 16]
        options += ["--lengths-per-batch", 2, "--log-every", 4, "--checkpoint-every", 5]
        options += ["--curve", folder / "curve.csv"]
        start = ["student", "--task", mood, "--arch", "mini", "--cache", filled[0]]
        return [*start, "--out", folder / "out", *options]

    def test_a_killed_run_continues_to_the_weights_of_an_unbroken_one(
        self, unbroken: Path, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        command, checkpoint = self.command(filled, mood, tmp_path), tmp_path / ".out.checkpoint"
        first = Forked(tmp_path / "first", *command)
        wait_for(checkpoint.exists)
        first.kill(signal.SIGKILL)
        assert first.wait().code == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
        before = torch.load(checkpoint, weights_only=True)
        second = Forked(tmp_path / "second", *command).wait()
        assert second.code == 0
        assert "continuing at step" in second.err
        assert weights_of(tmp_path / "out") == weights_of(unbroken / "out")
        assert (tmp_path / "curve.csv").read_text() == (unbroken / "curve.csv").read_text()
        assert not checkpoint.exists()
        # Its time adds up.
        assert 0 < before["seconds"] < read_record(tmp_path / "out")["seconds"]["training"]

    def test_the_same_command_at_once_trains_once(
        self, unbroken: Path, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        command = self.command(filled, mood, tmp_path)
        children = [Forked(tmp_path / f"run{k}", *command) for k in range(2)]
        results = [child.wait() for child in children]
        assert [result.code for result in results] == [0, 0]
        (waited,) = (result.err for result in results if "waiting for process" in result.err)
        assert "the process waited for has trained" in waited
        assert "step 4:" not in waited
        assert weights_of(tmp_path / "out") == weights_of(unbroken / "out")

    def interrupt(self, config: Any, steps: int) -> None:
        # Steps alone: what comes before them leaves no checkpoint.
        reporter, calls = Stopping(), count(1)
        reporter.when = lambda: "learning rate: " in str(reporter.lines) and next(calls) == steps
        with pytest.raises(Interrupted):
            run_student(config, reporter)

    def test_a_checkpoint_of_other_settings_is_not_continued(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        config = make_student_config(mood, filled[0], tmp_path / "out")
        self.interrupt(config, 3)
        reporter = SilentReporter()
        run_student(replace(config, learning_rate=3e-4), reporter)
        assert any("of other settings, or of another" in line for line in reporter.lines)

    def test_nothing_of_another_version_of_the_code_is_taken_as_current(
        self, filled: Filled, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def set_version(number: int) -> None:
            monkeypatch.setattr(stage, "TRAINER", number)

        config = make_student_config(mood, filled[0], tmp_path / "out", steps=6)
        reporter = SilentReporter()
        set_version(1)
        first = run_student(config, reporter).out
        old = weights_of(first)
        assert json.loads((first / "training.json").read_text())["trainer"] == 1
        set_version(2)
        # Whatever stops it, the older student stays.
        self.interrupt(config, 3)
        assert weights_of(first) == old
        assert json.loads((first / "training.json").read_text())["trainer"] == 1
        set_version(3)
        run_student(config, reporter)
        said = "is of other settings, or of another version of the training code: "
        assert f"{first} {said}it is trained anew, and replaced then" in reporter.lines
        assert any(line.endswith(f"{said}starting anew") for line in reporter.lines)
        # One that has no version is of a time before there were any.
        record = json.loads((first / "training.json").read_text())
        assert record.pop("trainer") == 3
        (first / "training.json").write_text(json.dumps(record | {"identity": "0" * 64}))
        run_student(config, reporter)
        run_student(config, reporter)
        assert any("an earlier run has trained" in line for line in reporter.lines)

    def test_a_damaged_checkpoint_is_named(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        config = make_student_config(mood, filled[0], tmp_path / "out")
        self.interrupt(config, 3)
        path = tmp_path / ".out.checkpoint"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(TrainingError, match=f"{path} is damaged; remove it"):
            run_student(config, SilentReporter())


class TestHeldOutRows:
    def test_they_are_not_in_the_stream(self, filled: Filled) -> None:
        cache, config = filled[1].cache, TrainingConfig(batch_size=16, lengths_per_batch=4)
        source = open_rows([CacheReader(cache)], read_table(cache), config, 16, torch.device("cpu"))
        held = {tuple(row) for part in source.held_out() for row in part.probabilities.tolist()}
        again = {tuple(row) for part in source.held_out() for row in part.probabilities.tolist()}
        stream = source.open_stream(0)
        seen: set[tuple[float, ...]] = set()
        for _ in range(3 * 200 // 4):
            seen |= {tuple(row) for row in next(stream).probabilities.tolist()}
        assert held == again
        assert len(held) == 16
        assert 170 < len(seen) <= 200 - 16
        assert not held & seen

    @pytest.mark.parametrize(
        ("chunks", "chunk_rows", "rows", "held"),
        [
            (2, 8, 1024, [1]),
            (20, 8, 1, [10]),
            (40, 8, 1024, [5, 15, 25, 35]),
            (1000, 64, 1024, [31 + 62 * k + k // 2 for k in range(16)]),
        ],
    )
    def test_they_are_whole_chunks_evenly_spaced_and_at_most_a_tenth(
        self, chunks: int, chunk_rows: int, rows: int, held: list[int]
    ) -> None:
        assert choose_held_out(tuple(range(chunks)), chunk_rows, rows) == held
        with pytest.raises(TrainingError, match="needs at least two"):
            choose_held_out((0,), chunk_rows, rows)


class TestChoiceOfACache:
    def test_one_is_named_by_its_summary(self, filled: Filled, tmp_path: Path) -> None:
        root, cache = filled[0], filled[1].cache
        summary = tmp_path / "summary.json"
        pointer = {"fingerprint": cache.fingerprint, "directory": f"mood/{cache.place.path.name}"}
        summary.write_text(json.dumps(pointer))
        assert find_cache(root, "mood", str(summary), partial=False).place == cache.place
        for broken in ("[]", "{}", "nonsense", '{"directory": 1, "fingerprint": 2}'):
            summary.write_text(broken)
            with pytest.raises(CacheChoiceError, match="no summary of a teacher"):
                find_cache(root, "mood", str(summary), partial=False)
        summary.write_text(json.dumps(pointer | {"fingerprint": "0" * 64}))
        with pytest.raises(CacheError, match="another cache"):
            find_cache(root, "mood", str(summary), partial=False)

    def test_one_of_another_task_is_refused(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "weather.yaml"
        other.write_text(mood.read_text().replace("mood", "weather"))
        place = str(filled[1].cache.place.path)
        config = make_student_config(other, filled[0], tmp_path / "out", source=(place,))
        with pytest.raises(SettingError, match=r"is of the task mood, the student .* of weather"):
            run_student(config, SilentReporter())

    def test_a_damaged_one_is_named(self, filled: Filled, mood: Path, tmp_path: Path) -> None:
        root = shutil.copytree(filled[0], tmp_path / "root")
        target = next(path for path in root.rglob("rows/probabilities/c/*/*") if path.is_file())
        target.write_bytes(b"\0" * target.stat().st_size)
        with pytest.raises(CacheError, match="probabilities"):
            run_student(make_student_config(mood, root, tmp_path / "out"), SilentReporter())
