from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import run_here
from tiny import make_student_config, make_teacher_config

from cache.reader import CacheReader
from stages.classify.loading import load_classifier
from stages.errors import SettingError
from stages.evaluate import evaluation
from stages.evaluate.evaluation import Evaluation, EvaluationConfig, evaluate
from stages.metrics import read_prior
from stages.metrics.calibration import expected_calibration_error, undo_temperature
from stages.metrics.scores import Confidence, compute_scores
from stages.records import RECORD, read_record
from stages.reporter import SilentReporter
from stages.student.stage import run_student
from stages.teacher.stage import TeacherResult, run_teacher

TEXTS = [f"{'Good Bad Poor Great '[k % 11 :]} {k}" for k in range(30)]


def write_rows(path: Path, labels: list[Any]) -> Path:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=False)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(**settings: Any) -> Evaluation:
    return evaluate(EvaluationConfig(**settings), SilentReporter())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ["good", "bad", "bad"] * 10)


class TestScores:
    def test_they_are_what_a_hand_computes(self) -> None:
        #  right   a a a a b b c    given   a a b c b a c
        gold, given = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 2, 1, 0, 2])
        found = compute_scores(gold, given, ("a", "b", "c", "never"), 5.0)
        assert found.accuracy == pytest.approx(4 / 7)
        for name, figures in {
            "a": (2 / 3, 1 / 2, 4 / 7, 4),
            "b": (1 / 2, 1 / 2, 1 / 2, 2),
            "c": (1 / 2, 1.0, 2 / 3, 1),
            "never": (0.0, 0.0, 0.0, 0),
        }.items():
            wanted = dict(zip(("precision", "recall", "f1", "rows"), figures, strict=True))
            assert found.classes[name] == pytest.approx(wanted)
        assert found.macro_f1 == pytest.approx((4 / 7 + 1 / 2 + 2 / 3) / 4)
        assert found.texts_per_second == 5.0


class TestTexts:
    def test_student_and_teacher_are_measured_on_the_same_texts(
        self, student: Path, llm: Path, mood: Path, rows: Path, tmp_path: Path
    ) -> None:
        found = run(data=rows, model=student, teacher=str(llm))
        gold = np.array([1, 0, 0] * 10)
        ours = load_classifier(student, "cpu").classify(TEXTS).probabilities.argmax(axis=1)
        config = make_teacher_config(mood, llm, tmp_path / "c", texts=rows)
        reader = CacheReader(run_teacher(config, SilentReporter()).cache)
        logits = np.empty((30, 2), dtype=np.float32)
        for shard in reader.shards:
            columns = reader.read_shard(shard)
            logits[columns["seed"].astype(int) - 1] = columns["logits"]
        theirs = logits.argmax(axis=1)
        assert found.student is not None
        assert found.teacher is not None
        assert found.student.accuracy == pytest.approx((ours == gold).mean())
        assert found.teacher.accuracy == pytest.approx((theirs == gold).mean())
        prior = read_prior(read_record(student))
        assert prior is not None
        taught = (logits - np.array(prior.biases)).argmax(axis=1)
        assert found.agreement == pytest.approx((ours == taught).mean())
        assert found.teacher_without_prior is not None
        assert found.teacher_without_prior.accuracy == pytest.approx((taught == gold).mean())
        assert found.rows == 30
        assert found.student.texts_per_second > 0

    def test_confidence_is_measured_against_labels_and_teacher(
        self, student: Path, llm: Path, rows: Path
    ) -> None:
        found = run(data=rows, model=student, teacher=str(llm)).calibration
        gold = np.array([1, 0, 0] * 10)
        h = load_classifier(student, "cpu").classify(TEXTS).probabilities
        temperature = read_record(student)["calibration"]["temperature"]
        assert found is not None
        assert found.temperature == temperature
        assert found.against_labels is not None
        assert found.against_labels.rows == 30
        assert found.against_labels.ece_after == expected_calibration_error(h, gold)
        plain = undo_temperature(h, temperature)
        assert found.against_labels.ece_before == expected_calibration_error(plain, gold)
        assert found.against_teacher is not None
        assert found.teacher_ece is not None

    def test_a_threshold_leaves_what_is_above_it(self, student: Path, rows: Path) -> None:
        h = load_classifier(student, "cpu").classify(TEXTS).probabilities
        right = h.argmax(axis=1) == np.array([1, 0, 0] * 10)
        middle = float(np.sort(h.max(axis=1))[15])
        for threshold, tagged in ((0.0, 30), (middle, 15), (1.0, 0)):
            found = run(data=rows, model=student, threshold=threshold).selection
            assert found is not None
            assert found.coverage == tagged / 30
            above = right[h.max(axis=1).astype(float) >= threshold]
            assert found.accuracy == (above.mean() if tagged else None)
        assert run(data=rows, model=student).selection is None
        for threshold in (-0.1, 1.5, float("nan")):
            with pytest.raises(SettingError, match=r"threshold: got .*, must be in \[0, 1\]"):
                run(data=rows, model=student, threshold=threshold)
        with pytest.raises(SettingError, match="give a student and texts"):
            run(model=student, threshold=0.5)

    def test_a_teacher_is_measured_without_a_student(
        self, llm: Path, mood: Path, rows: Path, student: Path
    ) -> None:
        found = run(data=rows, teacher=str(llm), task=str(mood))
        both = run(data=rows, model=student, teacher=str(llm))
        assert found.student is None
        assert found.agreement is None
        assert found.teacher is not None
        assert both.teacher is not None
        assert found.teacher.accuracy == both.teacher.accuracy
        assert found.calibration is not None
        assert both.calibration is not None
        assert found.calibration == Confidence(teacher_ece=both.calibration.teacher_ece)

    def test_the_file_may_be_named_after_the_task(self, student: Path, tmp_path: Path) -> None:
        (tmp_path / "mood.csv").write_text("stars,body\ngood,Great\nbad,Poor\n")
        columns = {"text_column": "body", "label_column": "stars"}
        assert run(data=tmp_path / "{task}.csv", model=student, **columns).rows == 2

    def test_a_student_of_another_task_is_refused(self, student: Path, tmp_path: Path) -> None:
        rows = write_rows(tmp_path / "rows.jsonl", ["negative", "positive"])
        with pytest.raises(SettingError, match="labels are bad, good, the task's negative"):
            run(data=rows, model=student, task="imdb")

    def test_a_model_that_is_not_the_student_s_teacher_is_told(
        self, student: Path, llm: Path, rows: Path, tmp_path: Path
    ) -> None:
        """Its answers are no projection's target, and the student's prior is not its own."""
        shutil.copytree(llm, tmp_path / "other")
        copied = tmp_path / "student"
        shutil.copytree(student, copied)
        for teacher, changed, said in (
            (tmp_path / "other", {}, f"was {llm}, not {tmp_path / 'other'}; its prior is not"),
            (llm, {"chat": True}, "was asked through its chat template; its prior is not"),
        ):
            record = json.loads((student / RECORD).read_text()) | changed
            (copied / RECORD).write_text(json.dumps(record))
            config = EvaluationConfig(data=rows, model=copied, teacher=str(teacher))
            found = evaluate(config, reporter := SilentReporter())
            assert any(said in line for line in reporter.warnings), reporter.warnings
            assert found.teacher is not None and found.teacher_without_prior is None
            assert found.teacher_name == str(teacher)

    def test_the_teacher_s_speed_is_that_of_its_answers(
        self, student: Path, llm: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = evaluation.lm.load_language_model

        def load_slowly(*given: Any) -> Any:
            time.sleep(3)
            return load(*given)

        monkeypatch.setattr(evaluation.lm, "load_language_model", load_slowly)
        found = run(data=rows, model=student, teacher=str(llm)).teacher
        assert found is not None and found.texts_per_second > 30 / 3

    def test_a_regression_is_refused(self, student: Path, rows: Path, tmp_path: Path) -> None:
        copied = tmp_path / "student"
        shutil.copytree(student, copied)
        config = json.loads((copied / "config.json").read_text()) | {"problem_type": "regression"}
        (copied / "config.json").write_text(json.dumps(config))
        with pytest.raises(SettingError, match=r"gives no probabilities \(regression\)"):
            run(data=rows, model=copied)


class TestHeldOutRows:
    def test_the_written_student_repeats_what_training_ended_with(
        self, student: Path, filled: tuple[Path, TeacherResult]
    ) -> None:
        found = run(model=student, cache=filled[0])
        trained = read_record(student)["held_out"]
        assert found.held_out is not None
        assert found.rows == trained["rows"] == 16
        for name in ("norm_g", "norm_h", "c", "angle", "centred_angle", "agreement", "spread"):
            assert getattr(found.held_out, name) == pytest.approx(trained[name], abs=1e-4)
        known = read_record(student)["calibration"]
        assert found.calibration is not None
        assert found.calibration.temperature == known["temperature"]
        errors = found.calibration.against_teacher
        assert errors is not None
        assert errors.rows == known["measured_rows"] == 8
        assert errors.ece_before == pytest.approx(known["ece_before"], abs=1e-4)
        assert errors.ece_after == pytest.approx(known["ece_after"], abs=1e-4)

    def test_a_student_without_a_temperature_has_one_figure(
        self, student: Path, filled: tuple[Path, TeacherResult], rows: Path, tmp_path: Path
    ) -> None:
        older = Path(shutil.copytree(student, tmp_path / "older"))
        record = read_record(older)
        for calibration in ({**record["calibration"], "folded": False}, None):
            (older / RECORD).write_text(json.dumps(record | {"calibration": calibration}))
            found = run(model=older, cache=filled[0]).calibration
            assert found is not None
            assert found.temperature is None
            assert found.against_teacher is not None
            assert found.against_teacher.ece_before is None
            assert found.against_teacher.rows == (8 if calibration else 16)
        said = run_here("evaluate", "--model", older, "--data", rows).out
        assert "(as it is: its record names no temperature in it)" in said
        held = run_here("evaluate", "--model", student, "--cache", filled[0]).out
        assert "16 held-out rows: agreement" in held
        assert "calibration error of the student against the teacher, 8 rows: " in held

    def test_they_stay_the_same_when_a_partial_cache_is_completed(
        self, filled: tuple[Path, TeacherResult], mood: Path, tmp_path: Path
    ) -> None:
        path = filled[1].cache.place.path
        copy = Path(shutil.copytree(path, tmp_path / "c" / "mood" / path.name))
        for record in sorted((copy / "commits").iterdir())[:3]:
            record.unlink()
        config = make_student_config(mood, tmp_path / "c", tmp_path / "out", partial=True)
        trained = run_student(config, SilentReporter()).projection
        # Completed, the tenth that would be held out now has been trained on.
        found = run(model=tmp_path / "out", cache=filled[0]).held_out
        assert found is not None
        assert found.norm_g == pytest.approx(trained.norm_g, abs=1e-4)
        assert found.angle == pytest.approx(trained.angle, abs=1e-4)

    def test_it_needs_a_student_alone_and_its_cache(
        self, student: Path, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(SettingError, match="only a student"):
            run(model=student, teacher=str(llm))
        with pytest.raises(SettingError, match="only a student"):
            run(teacher=str(llm), task=str(mood))
        with pytest.raises(Exception, match="no caches of task mood"):
            run(model=student, cache=tmp_path)


class TestCommand:
    def test_it_prints_a_table_or_json_and_keeps_it(
        self, student: Path, llm: Path, rows: Path, tmp_path: Path
    ) -> None:
        metrics = tmp_path / "below" / "metrics.json"
        command = ("evaluate", "--model", student, "--data", rows, "--teacher", llm)
        command += ("--threshold", 0.6)
        found = run_here(*command, "--json", "--metrics", metrics)
        assert found.code == 0
        data = json.loads(found.out)
        assert json.loads(metrics.read_text()) == data
        assert data["rows"] == 30
        assert set(data["student"]["classes"]) == {"bad", "good"}
        table = run_here(*command).out
        for part in (
            f"student: accuracy {data['student']['accuracy']:.2%}",
            f"teacher: accuracy {data['teacher']['accuracy']:.2%}",
            f"macro-F1 {data['student']['macro_f1']:.2%}",
            f"agreement of student and teacher: {data['agreement']:.2%}",
            "texts a second",
            "expected calibration error of the student against the labels, 30 rows: "
            f"{data['calibration']['against_labels']['ece_before']:.2%} without",
            f"{data['calibration']['against_teacher']['ece_after']:.2%} with it",
            f"of the teacher against the labels: {data['calibration']['teacher_ece']:.2%}",
            f"threshold 0.6: {data['selection']['coverage']:.2%} of the texts get a tag",
        ):
            assert part in table

    def test_a_file_that_cannot_be_written_is_named_and_costs_no_result(
        self, student: Path, rows: Path, tmp_path: Path
    ) -> None:
        command = ("evaluate", "--model", student, "--data", rows, "--metrics")
        refused = run_here(*command, tmp_path)
        assert refused.code == 2 and not refused.out
        assert f"'{tmp_path}' is a directory" in refused.err
        found = run_here(*command, rows / "metrics.json")
        assert found.code == 1 and "macro-F1" in found.out
        assert found.err.splitlines()[-1].startswith(f"error: {rows}: ")
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "named"),
        [
            ([1], "'1' is none of bad, good (--label-map 1=bad)"),
            (
                ["1", "0"],
                "'1' is none of bad, good; others like it are '0' (--label-map 0=bad,1=good)",
            ),
            (
                [True, False],
                "'True' is none of bad, good; others like it are 'False' "
                "(--label-map False=bad,True=good)",
            ),
            (
                ["GOOD"],
                "'GOOD' is none of bad, good (did you mean 'good'?) (--label-map GOOD=good)",
            ),
        ],
    )
    def test_other_labels_come_with_the_nearest_and_a_map(
        self, labels: list[Any], named: str, student: Path, tmp_path: Path
    ) -> None:
        path = write_rows(tmp_path / "rows.jsonl", labels)
        found = run_here("evaluate", "--model", student, "--data", path)
        assert found.code == 1
        assert f"{path}, line 1: the label {named}" in found.err

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ("", "holds no texts"),
            (
                "text,lable\nGood,good\n",
                "no key or column 'label'; there are 'text', 'lable' (did you mean 'lable'?)",
            ),
            ('{"text": "Good", "sentiment": 1}', "there are 'text', 'sentiment' (--label-column)"),
            ('{"text": "Good", "label": null}', "'label' holds nothing (--label-column)"),
            ("Good film\n", "no key or column 'label'; there are 'text'"),
        ],
    )
    def test_a_missing_label_comes_with_the_columns(
        self, content: str, named: str, student: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "rows"
        path.write_text(content)
        found = run_here("evaluate", "--model", student, "--data", path)
        assert found.code == 1
        assert not content or "the text has no label: " in found.err
        assert named in found.err

    def test_a_map_says_what_other_labels_stand_for(self, student: Path, tmp_path: Path) -> None:
        wanted = write_rows(tmp_path / "a.jsonl", ["good", "bad", "good", "bad"])
        other = write_rows(tmp_path / "b.jsonl", [1, " 0", "good", False])
        command = ("evaluate", "--json", "--model", student, "--data")
        plain = json.loads(run_here(*command, wanted).out)
        found = run_here(*command, other, "--label-map", "1=good, 0=bad,False=bad,7=bad")
        assert found.code == 0, found.err
        assert json.loads(found.out)["student"]["classes"] == plain["student"]["classes"]
        assert f"label map: {other} has no label '7'" in found.err

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ("1=god", "label map: 'god' is none of bad, good (did you mean 'good'?)"),
            ("good", "label map: got 'good', must be LABEL=NAME"),
            ("1=good,1=bad", "label map: '1' is both good and bad"),
        ],
    )
    def test_a_map_that_is_none_is_named(
        self, given: str, named: str, student: Path, tmp_path: Path
    ) -> None:
        path = write_rows(tmp_path / "rows.jsonl", ["good", "bad"])
        found = run_here("evaluate", "--model", student, "--data", path, "--label-map", given)
        assert (found.code, named in found.err) == (2, True)
        found = run_here("evaluate", "--model", student, "--label-map", "1=good")
        assert (found.code, "no texts with labels (--data)" in found.err) == (2, True)
