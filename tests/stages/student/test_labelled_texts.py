from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_here
from tiny import make_student_config, make_teacher_config, write_language_model

from cache.lookup import find_cache
from cache.reader import CacheReader
from stages.errors import SettingError, TextDataError, TrainingError
from stages.export import ExportConfig, export_student
from stages.inputs.attachments import read_table
from stages.lm import load_vocabulary
from stages.records import read_record
from stages.reporter import SilentReporter
from stages.student.config import StudentConfig
from stages.student.data import open_rows
from stages.student.labelled_texts import open_labelled_texts
from stages.student.stage import run_student
from stages.tasks.task import load_task
from stages.teacher.stage import run_teacher

WORDS = {"good": ("Great", "Good", "Good Great"), "bad": ("Poor", "Bad", "Bad Poor")}


def write_labelled(path: Path, count: int = 200) -> Path:
    """Texts of several lengths whose label their words tell, the last of them empty."""
    rows = []
    for k in range(count):
        label = ("good", "bad")[k % 2]
        text = "" if k == count - 1 else f"{WORDS[label][k % 3]} {'so' * (k % 4)}"
        rows.append(json.dumps({"text": text, "label": label}))
    path.write_text("\n".join(rows) + "\n")
    return path


def configure(mood: Path, llm: Path, file: Path, out: Path, **changes: Any) -> StudentConfig:
    asked: dict[str, Any] = {"labels": "gold", "texts": file, "model": str(llm), "arch": "static"}
    found: StudentConfig = make_student_config(mood, out.parent / "none", out, **asked | changes)
    return found


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("texts") / "train.jsonl")


@pytest.fixture(scope="module")
def direct(mood: Path, llm: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("direct") / "out"
    config = configure(mood, llm, texts, out, steps=60, learning_rate=1e-2)
    return run_student(config, SilentReporter()).out


class TestDirectTraining:
    def test_a_student_learns_the_labels_and_its_record_and_card_say_so(
        self, direct: Path, texts: Path
    ) -> None:
        record = read_record(direct)
        assert record["held_out"]["agreement"] > 0.9
        assert record["held_out"]["norm_g"] == pytest.approx(1.0)
        wanted = {"labels": "gold", "texts": str(texts), "fingerprint": "", "teacher": ""}
        wanted |= {"rows": 200, "preparation": {"seconds": 0.0, "rows": 200}}
        assert record.items() >= wanted.items()
        assert record["seconds"]["training"] > 0
        card = (direct / "README.md").read_text()
        for part in ("trained on labelled texts", "200 texts with their labels"):
            assert part in card
        assert record["words_of"] in card
        for part in ("projected from", "the teacher", "its teacher", "prompt"):
            assert part not in card
        config = ExportConfig(direct, ("transformers",), out=direct.parent / "export")
        exported = read_record(export_student(config, SilentReporter()).out)
        assert (exported["teacher"], exported["texts"]) == ("", texts.name)

    def test_it_is_measured_on_texts_and_says_that_there_is_no_cache(
        self, direct: Path, texts: Path
    ) -> None:
        found = run_here("evaluate", "--model", direct, "--data", texts, "--json")
        assert json.loads(found.out)["student"]["accuracy"] > 0.9
        found = run_here("evaluate", "--model", direct)
        assert found.code == 2
        assert found.err.splitlines()[-1] == (
            f"error: {direct} was trained on labelled texts and has no cache to be compared with; "
            "give labelled texts (--data)"
        )

    def test_its_rows_come_as_those_of_a_cache_of_the_same_texts(
        self, mood: Path, llm: Path, texts: Path, tmp_path: Path
    ) -> None:
        usual = {"chunk_rows": 64, "shard_rows": 4096, "texts": texts}
        run_teacher(make_teacher_config(mood, llm, tmp_path / "c", **usual), SilentReporter())
        cache, cpu = find_cache(tmp_path / "c", "mood", None, partial=False), torch.device("cpu")
        config = configure(mood, llm, texts, tmp_path / "out")
        data = open_labelled_texts(config, texts, load_task(str(mood)), SilentReporter())
        (reader,) = data.open_readers(data.load_vocabulary(), tmp_path / "temporary")
        labelled, answered = (
            open_rows([each], read_table(cache), config.training, 16, cpu)
            for each in (reader, CacheReader(cache))
        )
        streams = [islice(source.open_stream(3), 150) for source in (labelled, answered)]
        held = [source.held_out() for source in (labelled, answered)]
        for ours, theirs in (*zip(*streams, strict=True), *zip(*held, strict=True)):
            torch.testing.assert_close(ours.embeddings, theirs.embeddings, rtol=0, atol=0)
            assert (ours.mask is None) == (theirs.mask is None)
            assert ours.mask is None or torch.equal(ours.mask, theirs.mask)
            assert set(ours.probabilities.flatten().tolist()) == {0.0, 1.0}
            assert ours.probabilities.sum(dim=1).eq(1).all()

    def test_the_vocabulary_of_a_cache_serves_as_well_as_the_model_s(
        self, mood: Path, llm: Path, texts: Path, tmp_path: Path
    ) -> None:
        asked = make_teacher_config(mood, llm, tmp_path / "c", rows=16)
        result = run_teacher(asked, SilentReporter())
        weights = []
        for name, changes in (
            ("model", {}),
            ("cache", {"model": "auto", "source": (result.cache.fingerprint[:12],)}),
        ):
            config = configure(mood, llm, texts, tmp_path / name, **changes)
            out = run_student(replace(config, cache=tmp_path / "c"), SilentReporter()).out
            weights.append((out / "model.safetensors").read_bytes())
        assert weights[0] == weights[1]

    def test_embeddings_are_taken_as_the_model_looks_them_up(
        self, mood: Path, tmp_path: Path
    ) -> None:
        # This family multiplies inside its embedding layer.
        folder = write_language_model(tmp_path / "gemma3", "gemma3")
        asked = make_teacher_config(mood, folder, tmp_path / "c", rows=16)
        result = run_teacher(asked, SilentReporter())
        vocabulary = load_vocabulary(folder, "cpu", "float32", load_task(str(mood)).describe())
        assert torch.equal(vocabulary.table, read_table(result.cache))
        assert vocabulary.start_id == result.cache.manifest.inputs["start_id"]

    def test_the_texts_and_their_labels_are_what_it_depends_on(
        self, mood: Path, llm: Path, texts: Path, tmp_path: Path
    ) -> None:
        def said(name: str, content: str) -> str:
            path = tmp_path / name
            path.write_text(content)
            reporter = SilentReporter()
            run_student(configure(mood, llm, path, tmp_path / "out", steps=2), reporter)
            return "\n".join(reporter.lines)

        content = texts.read_text()
        assert "step 2:" in said("first.jsonl", content)
        assert "an earlier run has trained" in said("second.jsonl", content)
        for old, new in (('"label": "good"', '"label": "bad"'), ("Great", "Good")):
            assert "step 2:" in said("second.jsonl", content.replace(old, new, 1))


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"labels": "silver"}, "labels: got 'silver', must be teacher or gold"),
            ({"texts": None}, "name the file of labelled texts"),
            ({"partial": True}, "leave partial out"),
            ({"source": ("abc",)}, "give one of them"),
        ],
    )
    def test_settings_that_do_not_go_together(
        self, changes: dict[str, Any], named: str, mood: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(SettingError, match=named):
            configure(mood, Path("mini"), tmp_path / "t.jsonl", tmp_path / "out", **changes)

    @pytest.mark.parametrize(
        ("rows", "named"),
        [
            ([("a", "good"), ("b", None)], "line 2: the text has no label"),
            ([("a", "good"), ("b", "fine")], "line 2: the label 'fine' is none of bad, good"),
            ([("a", "good"), ("b", "good")], "every text has the label 'good'"),
        ],
    )
    def test_labels_that_nothing_can_be_learned_from(
        self, rows: list[tuple[str, str | None]], named: str, mood: Path, llm: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text("".join(json.dumps({"text": t, "label": x}) + "\n" for t, x in rows))
        with pytest.raises(SettingError, match=named):
            run_student(configure(mood, llm, path, tmp_path / "out"), SilentReporter())

    def test_files_that_are_none_or_too_small(self, mood: Path, llm: Path, tmp_path: Path) -> None:
        config = configure(mood, llm, tmp_path / "none.jsonl", tmp_path / "out")
        with pytest.raises(TextDataError, match=r"none\.jsonl: No such file"):
            run_student(config, SilentReporter())
        few = write_labelled(tmp_path / "few.jsonl", 64)
        with pytest.raises(TrainingError, match="there are 64 texts; training needs more than 64"):
            run_student(replace(config, texts=few), SilentReporter())

    def test_a_cache_of_other_labels(
        self, llm: Path, mood: Path, texts: Path, tmp_path: Path
    ) -> None:
        run_teacher(make_teacher_config(mood, llm, tmp_path / "c", rows=16), SilentReporter())
        other = tmp_path / "mood.yaml"
        other.write_text(mood.read_text().replace("  bad:", "  sad:"))
        changed = tmp_path / "sad.jsonl"
        changed.write_text(texts.read_text().replace('"bad"', '"sad"'))
        place = next((tmp_path / "c" / "mood").iterdir())
        config = configure(other, Path("auto"), changed, tmp_path / "out", source=(str(place),))
        with pytest.raises(SettingError, match="is of the labels bad, good, the task mood has sad"):
            run_student(config, SilentReporter())

    def test_a_label_that_no_text_has_is_said(
        self, llm: Path, mood: Path, texts: Path, tmp_path: Path
    ) -> None:
        more = tmp_path / "mood.yaml"
        more.write_text(mood.read_text().replace("word", "  neither: [answer]\nword", 1))
        reporter = SilentReporter()
        run_student(configure(more, llm, texts, tmp_path / "out", steps=2), reporter)
        assert any("no text has the label neither" in line for line in reporter.warnings)
