from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    change_weights,
    format_rows,
    load_teacher,
    make_teacher_config,
    read_rows,
    write_text,
)

from stages.checkpoints import load_tokenizer
from stages.errors import ModelError, SettingError, TextDataError
from stages.inputs.attachments import read_sampler
from stages.reporter import SilentReporter
from stages.teacher.stage import run_teacher

TEXTS = ["Good film", "", "Bad", "Poor, poor", 'a "great"', "Bad\u2028Good", "é😀", "Great" * 9] * 5


class TestTexts:
    @pytest.mark.parametrize("name", ["t.jsonl", "t.csv.gz", "t.tsv", "t.txt", "t.jsonl.gz"])
    def test_texts_are_answered_as_asking_the_teacher_and_known_by_their_lines(
        self, name: str, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        path = write_texts(tmp_path / name, TEXTS)
        reporter = SilentReporter()
        config = make_teacher_config(mood, llm, tmp_path / "c", texts=path)
        cache = run_teacher(config, reporter).cache
        rows, teacher, tokenizer = read_rows(cache), load_teacher(mood, llm), load_tokenizer(llm)
        first = 2 if ".csv" in name or ".tsv" in name else 1
        assert sorted(rows["seed"].tolist()) == [
            first + k
            for k, text in enumerate(TEXTS)
            if text or name != "t.txt"  # a blank line is no text
        ]
        for row, line in enumerate(rows["seed"].tolist()):
            ids = tokenizer.encode(TEXTS[line - first], add_special_tokens=False)[:12]
            assert rows["length"][row] == len(ids)
            assert rows["tokens"][row].tolist() == ids + [-1] * (12 - len(ids))
            embeddings = teacher.table[torch.tensor(ids, dtype=torch.long)][None]
            wanted = teacher.compute_class_logits(embeddings).softmax(dim=1)[0].numpy()
            np.testing.assert_allclose(rows["probabilities"][row], wanted, atol=1e-5)
        assert any("texts are cut at 12 tokens" in line for line in reporter.lines)
        assert read_sampler(cache, teacher.table) is None

    def test_other_texts_are_another_cache(self, llm: Path, mood: Path, tmp_path: Path) -> None:
        path = tmp_path / "t.txt"
        found = []
        for texts in (["Good", "Bad"], ["Good", "Poor"], ["Good", "Bad"]):
            config = make_teacher_config(
                mood, llm, tmp_path / "c", texts=write_texts(path, texts), text_column="unused"
            )
            found.append(run_teacher(config, SilentReporter()))
        assert [result.computed for result in found] == [2, 2, 0]
        assert found[0].cache.place.path == found[2].cache.place.path != found[1].cache.place.path

    def test_a_bad_file_is_an_error_before_anything_is_made(
        self, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text('{"text": "a"}\n{"body": "b"}\n')
        config = make_teacher_config(mood, llm, tmp_path / "c", texts=path)
        with pytest.raises(TextDataError, match="line 2: no key 'text'; there are 'body'"):
            run_teacher(config, SilentReporter())
        assert not (tmp_path / "c").exists()


class TestModels:
    @pytest.mark.parametrize(
        ("model", "named"),
        [
            ("./nowhere", "no model directory './nowhere'"),
            ("/no/such/dir", "no model directory '/no/such/dir'"),
            ("no-such-model", "hub cannot be reached"),
        ],
    )
    def test_a_model_that_is_not_there_is_named(
        self, model: str, named: str, mood: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match=named):
            run_teacher(make_teacher_config(mood, model, tmp_path), SilentReporter())

    @pytest.mark.parametrize(
        ("break_it", "named"),
        [
            (lambda folder: (folder / "config.json").unlink(), "no config.json"),
            (lambda folder: (folder / "model.safetensors").unlink(), "no safetensors"),
            (lambda folder: (folder / "tokenizer.json").unlink(), "cannot load the tokenizer"),
            (
                lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 64),
                "cannot load a causal LM",
            ),
            (
                # Layers without weights, which transformers makes up at random.
                lambda folder: replace_in(folder / "config.json", '_layers": 3', '_layers": 4'),
                r"model\.layers\.3.*and 8 more is missing",
            ),
            (
                lambda folder: replace_in(folder / "config.json", '_size": 64', '_size": 48'),
                r"mlp.*of another shape",
            ),
        ],
    )
    def test_a_damaged_directory_is_named(
        self, break_it: Callable[[Path], Any], named: str, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        folder = change_weights(llm, tmp_path / "m", lambda model: None)
        break_it(folder)
        with pytest.raises(ModelError, match=named):
            run_teacher(make_teacher_config(mood, folder, tmp_path / "c"), SilentReporter())

    @pytest.mark.parametrize(
        ("own", "named"),
        [
            ({"device": "cuda:7"}, "'cuda:7' is not there"),
            ({"device": "tpu"}, "'tpu'"),
            ({"dtype": "int8"}, "'int8'"),
        ],
    )
    def test_a_device_or_format_that_is_not_there_is_named(
        self, own: dict[str, str], named: str, llm: Path, mood: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(SettingError, match=named):
            run_teacher(make_teacher_config(mood, llm, tmp_path, **own), SilentReporter())


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def write_texts(path: Path, texts: list[str]) -> Path:
    ending = path.suffixes[0]
    return write_text(path, format_rows(ending, [(text, "") for text in texts]))
