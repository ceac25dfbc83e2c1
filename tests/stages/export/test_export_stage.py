from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Result

from stages.classify import Classifier, load_classifier
from stages.errors import ExportError, SettingError
from stages.export import ExportConfig, comparison, export_student
from stages.export import onnx as onnx_export
from stages.export.comparison import compare
from stages.records import RECORD
from stages.reporter import Interrupted, SilentReporter

PLAIN = ("transformers",)


def read_all(folder: Path) -> dict[str, str]:
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def export(model: Path, out: Path | None, **own: Any) -> Path:
    return export_student(ExportConfig(model, out=out, **own), SilentReporter()).out


class TestDirectory:
    def test_an_export_holds_what_the_ecosystem_looks_for(
        self, student: Path, exported: tuple[Path, Result]
    ) -> None:
        there = read_all(exported[0])
        onnx = {"onnx/model.onnx", "onnx/model_int8.onnx"}
        plain = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
        assert set(there) == onnx | plain | {RECORD, "README.md"}
        ours = read_all(student)
        assert {name: there[name] for name in plain} == {name: ours[name] for name in plain}
        assert "exports" not in json.loads((student / RECORD).read_text())

    def test_the_record_says_what_was_measured(
        self, student: Path, exported: tuple[Path, Result]
    ) -> None:
        record = json.loads((exported[0] / RECORD).read_text())
        files = record.pop("exports")
        ours = json.loads((student / RECORD).read_text())
        # Directories of this machine are nobody else's business.
        assert record == ours | {"teacher": Path(ours["teacher"]).name}
        assert record["teacher"] != ours["teacher"]
        assert [each["file"] for each in files] == ["onnx/model.onnx", "onnx/model_int8.onnx"]
        for each, least in zip(files, (0.999, 0.9), strict=True):
            assert each["bytes"] == (exported[0] / each["file"]).stat().st_size
            assert each["agreement"] >= least
            assert each["rows"] >= 64
            assert each["texts_per_second"] > 0
            assert each["original_texts_per_second"] > 0
        assert files[0]["largest_difference"] < 1e-4 < files[1]["largest_difference"] < 0.2

    def test_torch_s_form_alone_needs_no_onnx(self, student: Path, tmp_path: Path) -> None:
        model = tmp_path / "mood"
        shutil.copytree(student, model)
        before = read_all(model)
        out = export(model, None, formats=PLAIN)
        assert out == tmp_path / "mood-export"
        assert not (out / "onnx").exists()
        assert json.loads((out / RECORD).read_text())["exports"] == []
        wanted, found = (load_classifier(path, "cpu").classify(["Good"]) for path in (model, out))
        assert (found.probabilities == wanted.probabilities).all()
        assert read_all(model) == before
        # An older export is replaced whole.
        (out / "onnx").mkdir()
        (out / "onnx" / "model.onnx").write_text("older")
        export(model, None, formats=PLAIN)
        assert not (out / "onnx").exists()
        assert {path.name for path in tmp_path.iterdir()} == {"mood", "mood-export"}

    def test_metrics_go_into_the_record(self, student: Path, tmp_path: Path) -> None:
        figures = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 7}
        scores = {"accuracy": 0.5, "macro_f1": 0.375, "classes": {"good": figures}}
        found = [{"rows": 5, "data": "/folder/a.jsonl"}, {"rows": 7, "student": scores}]
        paths = tuple(tmp_path / f"{k}.json" for k in range(2))
        for path, data in zip(paths, found, strict=True):
            path.write_text(json.dumps(data))
        out = export(student, tmp_path / "out", formats=PLAIN, metrics=paths)
        found[0]["data"] = "a.jsonl"
        record = json.loads((out / RECORD).read_text())
        assert record["evaluations"] == found
        assert "macro-F1 37.5%" in (out / "README.md").read_text()
        for content, named in (
            (json.dumps(found[1] | {"task": "imdb"}), "measured on another student"),
            (json.dumps(found[1] | {"identity": "another"}), "measured on another student"),
            ("{", r"0\.json"),
            ("[]", r"0\.json"),
            ("{}", r"0\.json"),
        ):
            paths[0].write_text(content)
            with pytest.raises(SettingError, match=named):
                export(student, tmp_path / "out", formats=PLAIN, metrics=paths)


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "named"),
        [
            (lambda out: out.write_text("mine"), "is there and is no export"),
            (lambda out: shutil.copytree(out.parents[1] / "other", out), "and is no export"),
            (lambda out: (out / "notes").mkdir(parents=True), "is there and is no export"),
            (lambda out: out.parent.rmdir() or out.parent.touch(), "cannot write"),
        ],
    )
    def test_what_else_is_there_stays(
        self, make: Callable[[Path], Any], named: str, student: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "here" / "out"
        out.parent.mkdir()
        shutil.copytree(student, tmp_path / "other")
        make(out)
        before = out.exists()
        with pytest.raises(ExportError, match=named):
            export(student, out, formats=PLAIN)
        assert out.exists() == before

    def test_the_student_s_own_directory_is_never_touched(
        self, student: Path, tmp_path: Path
    ) -> None:
        model = tmp_path / "students" / "mood"
        shutil.copytree(student, model)
        before = read_all(model)
        for place in (".", "onnx", ".."):
            with pytest.raises(ExportError, match="the student's own place"):
                export(model, model / place, formats=PLAIN)
        assert read_all(model) == before

    def test_what_is_no_student(self, exported: tuple[Path, Result], tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="is no student"):
            export(tmp_path, None)
        with pytest.raises(SettingError, match="is an export; give the student's directory"):
            export(exported[0] / "onnx/model.onnx", None)
        bare = tmp_path / "bare"
        shutil.copytree(exported[0], bare)
        (bare / "model.safetensors").unlink()
        with pytest.raises(ExportError, match=r"has no weights"):
            export(bare, tmp_path / "out", formats=PLAIN)

    @pytest.fixture
    def quick(self, exported: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the graph from where it has been written: what comes after that is tested."""
        file = exported[0] / "onnx/model.onnx"
        monkeypatch.setattr(onnx_export, "export_onnx", lambda _, to: shutil.copyfile(file, to))

    @pytest.mark.usefixtures("quick")
    def test_a_file_that_is_not_the_student_is_not_kept(
        self, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        export(student, out, formats=PLAIN)
        before = read_all(out)
        monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
        with pytest.raises(ExportError, match="nothing was kept"):
            export(student, out)
        assert read_all(out) == before
        assert list(tmp_path.iterdir()) == [out]

    @pytest.mark.usefixtures("quick")
    def test_a_stop_leaves_nothing(self, student: Path, tmp_path: Path) -> None:
        class Stopping(SilentReporter):
            def check_stop(self) -> None:
                raise Interrupted("stopped")

        with pytest.raises(Interrupted):
            export_student(ExportConfig(student, out=tmp_path / "out"), Stopping())
        assert list(tmp_path.iterdir()) == []


class TestComparing:
    def make(self, label: Callable[[str], int], score: float = 0.75) -> Classifier:
        def encode(texts: list[str], limit: int) -> list[list[int]]:
            return [[label(text)] for text in texts]

        def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            sign = np.where(ids == 1, 1.0, -1.0).astype(np.float32)
            return np.concatenate([sign * 0, sign * np.log(score / (1 - score))], axis=1)

        return Classifier(encode, run, ("a", "b"), 9, 0, "")

    def test_agreement_and_difference_are_over_the_same_texts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = [str(k) for k in range(200)]
        original = self.make(lambda text: int(text) % 2)
        others = {
            "same": original,
            "surer": self.make(lambda text: int(text) % 2, 0.95),
            "other": self.make(lambda text: int(int(text) % 4 == 1)),
        }
        (tmp_path / "surer").write_bytes(b"12")
        (tmp_path / "surer.data").write_bytes(b"345")
        found = compare(original, tmp_path, others, texts, SilentReporter())
        assert [each.file for each in found] == ["same", "surer", "other"]
        assert [each.bytes for each in found] == [0, 5, 0]
        assert [each.rows for each in found] == [200] * 3
        assert [each.agreement for each in found] == [1.0, 1.0, 0.75]
        differences = [each.largest_difference for each in found]
        assert differences == pytest.approx([0.0, 0.2, 0.5], abs=1e-6)
        # It ends when there was enough, and says after how many.
        monkeypatch.setattr(comparison, "ENOUGH_SECONDS", -1.0)
        (one,) = compare(original, tmp_path, {"x": original}, ["1"] * 500, SilentReporter())
        assert one.rows == comparison.ROUND
