from __future__ import annotations

import csv
import io
import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from processes import Forked, wait_for
from tiny import change_weights, make_student_config, make_teacher_config

from cache.errors import CacheChoiceError, CacheError, Hint, IncompleteError
from cache.lookup import find_cache
from cache.reader import CacheReader
from pipeline.commands.student import student as student_command
from stages.errors import SettingError, TrainingError
from stages.inputs.attachments import read_table
from stages.records import RECORD, read_record
from stages.reporter import Interrupted, SilentReporter
from stages.student import loop, stage
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


def read_curve(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture(scope="module")
def unbroken(filled: Filled, mood: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    config = make_student_config(
        mood, filled[0], folder / "out", steps=STEPS, curve=folder / "curve.csv"
    )
    run_student(config, SilentReporter())
    return folder


@pytest.fixture(scope="module")
def several(
    llm: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TeacherResult]]:
    root = tmp_path_factory.mktemp("several")
    configs = [make_teacher_config(mood, llm, root, rows=64, seed=seed) for seed in (0, 1)]
    return root, [run_teacher(config, SilentReporter()) for config in configs]


class TestStudents:
    def test_what_happens_is_said_and_kept(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        reporter, out = SilentReporter(), tmp_path / "below" / "out"
        config = make_student_config(mood, filled[0], out, curve=tmp_path / "curves" / "c.csv")
        result = run_student(config, reporter)
        said = "\n".join(reporter.lines)
        for part in (
            f"cache: {filled[1].cache.place.path} (mood, 200 vocabulary)",
            "device: cpu",
            "precision: float32",
            "student: mini, random start",
            "learning rate: 0.002",
            "step 12: loss",
            "held out: 16 rows, agreement",
            f"student: {out}",
        ):
            assert part in said
        assert (result.out, result.fingerprint) == (out, filled[1].cache.fingerprint)
        record = read_record(out)
        assert record["fingerprint"] == result.fingerprint
        assert record["rows"] == 200
        assert record["training"]["steps"] == 12
        assert (record["labels"], record["texts"]) == ("teacher", "")
        assert record["seconds"]["training"] > 0
        assert record["preparation"]["rows"] == 200
        assert record["preparation"]["seconds"] == sum_seconds(CacheReader(filled[1].cache)) > 0
        assert record["versions"]["threads"] == torch.get_num_threads()
        assert record["held_out"]["agreement"] == result.projection.agreement
        assert [path.name for path in out.parent.iterdir() if "checkpoint" in path.name] == []

    def test_the_curve_has_a_row_at_every_interval_and_at_the_end(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        config = make_student_config(
            mood, filled[0], tmp_path / "out", steps=10, curve=tmp_path / "c.csv"
        )
        result = run_student(config, SilentReporter())
        rows = read_curve(tmp_path / "c.csv")
        assert (tmp_path / "c.csv").read_text().splitlines()[0] == ",".join(CURVE)
        assert CURVE[:2] == ("step", "loss")
        assert [row["step"] for row in rows] == ["4", "8", "10"]
        assert {row["c_learned"] for row in rows} == {""}
        last, found = {key: float(value or 0) for key, value in rows[-1].items()}, result.projection
        # What is written has a temperature, which changes no answer, and the curve is of before.
        assert last["norm_g"] == pytest.approx(found.norm_g, rel=1e-4)
        assert last["agreement"] == pytest.approx(found.agreement, rel=1e-4)
        inner = last["norm_g"] * math.cos(last["angle"])
        assert last["c_closed_form"] * last["norm_h"] == pytest.approx(inner, rel=1e-4)

    def test_a_student_learns_its_teacher(self, student: Path) -> None:
        record = read_record(student)
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
        assert (
            "has an angle of 0.0" in warning
            and "a small α says nothing about the student" in warning
        )

    def test_every_objective_can_be_asked_for(self) -> None:
        (asked,) = (option for option in student_command.params if option.name == "objective")
        assert isinstance(asked.type, click.Choice)
        assert sorted(asked.type.choices) == sorted(OBJECTIVES)

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_every_objective_trains(
        self, objective: str, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        changes = {"objective": objective, "steps": 40, "log_every": 10}
        run_student(
            make_student_config(mood, filled[0], tmp_path / "out", **changes), SilentReporter()
        )
        curve = read_record(tmp_path / "out")["curve"]
        assert curve[-1]["loss"] < curve[0]["loss"]
        if objective in ("generalised-kl", "algorithm-1"):
            # Both begin at a half, where more c is better.
            assert 0.5 < curve[0]["c_learned"] < curve[-1]["c_learned"]

    def test_another_seed_or_rate_is_another_student_and_the_same_is_the_same(
        self, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        found = []
        for k, changes in enumerate([{}, {}, {"seed": 1}, {"learning_rate": 1e-3}]):
            config = make_student_config(mood, filled[0], tmp_path / str(k), steps=2, **changes)
            found.append(weights_of(run_student(config, SilentReporter()).out))
        assert found[0] == found[1]
        assert len(set(found)) == 3

    def test_what_was_recorded_is_json_to_everyone(self, student: Path) -> None:
        json.loads((student / RECORD).read_text(), parse_constant=refuse_constant)

    def test_texts_of_mixed_lengths_train_a_student(
        self, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        texts = tmp_path / "t.txt"
        texts.write_text("".join(f"{'Good Bad Poor '[k % 5 :]} {k}\n" for k in range(60)) + "\n")
        config = make_teacher_config(mood, llm, tmp_path / "c", texts=texts, chunk_rows=16)
        run_teacher(config, SilentReporter())
        result = run_student(
            make_student_config(mood, tmp_path / "c", tmp_path / "out"), SilentReporter()
        )
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
            (
                {"batch_size": 10, "lengths_per_batch": 4},
                "got 10, must be a multiple of 4",
            ),
            ({"learning_rate": -1.0}, "learning rate: got -1.0"),
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
        options += ["--lengths-per-batch", 2]
        options += ["--log-every", 4, "--checkpoint-every", 5, "--curve", folder / "curve.csv"]
        start = ["student", "--task", mood, "--arch", "mini", "--cache", filled[0]]
        return [*start, "--out", folder / "out", *options]

    @pytest.mark.parametrize(
        "number",
        [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    )
    def test_a_run_that_was_ended_continues_to_the_weights_of_an_unbroken_one(
        self, number: int, unbroken: Path, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        command = self.command(filled, mood, tmp_path)
        first = Forked(tmp_path / "first", *command)
        wait_for((tmp_path / ".out.checkpoint").exists)
        first.kill(number)
        ended = first.wait()
        assert ended.code == (-number if number == signal.SIGKILL else 130)
        assert "Traceback" not in ended.err
        assert not (tmp_path / "out").exists()
        second = Forked(tmp_path / "second", *command).wait()
        assert second.code == 0
        assert "continuing at step" in second.err
        assert weights_of(tmp_path / "out") == weights_of(unbroken / "out")
        assert (tmp_path / "curve.csv").read_text() == (unbroken / "curve.csv").read_text()
        assert not (tmp_path / ".out.checkpoint").exists()

    def test_the_same_command_at_once_trains_once(
        self, unbroken: Path, filled: Filled, mood: Path, tmp_path: Path
    ) -> None:
        command = self.command(filled, mood, tmp_path)
        children = [Forked(tmp_path / f"run{k}", *command) for k in range(2)]
        results = [child.wait() for child in children]
        assert [result.code for result in results] == [0, 0]
        waited = [result for result in results if "waiting for process" in result.err]
        assert len(waited) == 1
        assert "the process waited for has trained" in waited[0].err
        assert "step 4:" not in waited[0].err
        assert weights_of(tmp_path / "out") == weights_of(unbroken / "out")

    def interrupt(self, config: Any, steps: int) -> None:
        class Impatient(SilentReporter):
            left = steps

            def check_stop(self) -> None:
                # Steps alone: what comes before them leaves no checkpoint.
                self.left -= any(line.startswith("learning rate: ") for line in self.lines)
                if not self.left:
                    raise Interrupted

        with pytest.raises(Interrupted):
            run_student(config, Impatient())

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
            for module in (stage, loop):
                monkeypatch.setattr(module, "TRAINER", number)

        config, reporter = make_student_config(mood, filled[0], tmp_path / "out"), SilentReporter()
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

    def test_a_single_chunk_is_too_little(self) -> None:
        with pytest.raises(TrainingError, match="needs at least two"):
            choose_held_out((0,), 64, 8)


class TestChoiceOfACache:
    @pytest.fixture
    def partial(self, filled: Filled, tmp_path: Path) -> Path:
        """A root with a cache that lacks three shards."""
        path = filled[1].cache.place.path
        copy = Path(shutil.copytree(path, tmp_path / "root" / "mood" / path.name))
        for record in sorted((copy / "commits").iterdir())[:3]:
            record.unlink()
        return tmp_path / "root"

    def test_several_are_listed_and_not_guessed(
        self, several: tuple[Path, list[TeacherResult]]
    ) -> None:
        root, results = several
        with pytest.raises(CacheChoiceError, match="2 caches of task mood") as found:
            find_cache(root, "mood", None, partial=False)
        assert found.value.hint is Hint.CHOOSE
        for seed, result in enumerate(results):
            line = next(
                line
                for line in str(found.value).splitlines()
                if result.cache.fingerprint[:12] in line
            )
            assert f"mood, 64 vocabulary, seed {seed}" in line

    @pytest.mark.parametrize(
        "name",
        [
            lambda result: result.cache.fingerprint[:12],
            lambda result: result.cache.fingerprint,
            lambda result: str(result.cache.place.path),
        ],
    )
    def test_one_is_named_by_its_digits_or_its_directory(
        self,
        name: Callable[[TeacherResult], str],
        several: tuple[Path, list[TeacherResult]],
    ) -> None:
        root, results = several
        for result in results:
            cache = find_cache(root, "mood", name(result), partial=False)
            assert cache.fingerprint == result.cache.fingerprint

    def test_one_is_named_by_its_summary(
        self, several: tuple[Path, list[TeacherResult]], tmp_path: Path
    ) -> None:
        root, results = several
        cache = results[1].cache
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
        self, several: tuple[Path, list[TeacherResult]], mood: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "weather.yaml"
        other.write_text(mood.read_text().replace("mood", "weather"))
        config = make_student_config(other, several[0], tmp_path / "out")
        config = replace(config, source=(str(several[1][0].cache.place.path),))
        with pytest.raises(SettingError, match=r"is of the task mood, the student .* of weather"):
            run_student(config, SilentReporter())

    @pytest.mark.parametrize("digits", ["ffffffffffff", "no-such-thing"])
    def test_digits_that_name_none_are_an_error(
        self, digits: str, several: tuple[Path, list[TeacherResult]]
    ) -> None:
        with pytest.raises(CacheChoiceError, match="no caches of task mood"):
            find_cache(several[0], "mood", digits, partial=False)

    def test_where_there_is_none_the_hint_is_to_create_one(self, tmp_path: Path) -> None:
        with pytest.raises(CacheChoiceError, match="no complete cache of task mood"):
            find_cache(tmp_path / "nowhere", "mood", None, partial=False)

    def test_an_incomplete_one_needs_to_be_asked_for(
        self, partial: Path, mood: Path, tmp_path: Path
    ) -> None:
        config = make_student_config(mood, partial, tmp_path / "out")
        with pytest.raises(IncompleteError, match="4 of 7 shards") as found:
            run_student(config, SilentReporter())
        assert found.value.hint is Hint.FILL_OR_PARTIAL
        reporter = SilentReporter()
        result = run_student(replace(config, partial=True), reporter)
        assert read_record(result.out)["rows"] == 200 - 3 * 32
        assert "training on 104 of 200 rows: the cache is partial" in reporter.warnings

    def test_a_damaged_one_is_named(self, partial: Path, mood: Path, tmp_path: Path) -> None:
        target = next(path for path in partial.rglob("rows/probabilities/c/*/*") if path.is_file())
        target.write_bytes(b"\0" * target.stat().st_size)
        config = make_student_config(mood, partial, tmp_path / "out", partial=True)
        with pytest.raises(CacheError, match="probabilities"):
            run_student(config, SilentReporter())
