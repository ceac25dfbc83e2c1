from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import format_rows, load_teacher, make_teacher_config, read_rows, write_text

from stages.checkpoints import load_tokenizer
from stages.errors import TextDataError
from stages.inputs.attachments import read_sampler
from stages.reporter import SilentReporter
from stages.teacher.stage import run_teacher

TEXTS = ["Good film", "", "Bad", "Poor, poor", 'a "great"', "Bad\u2028Good", "é😀", "Great" * 9] * 5


def write_texts(path: Path, texts: list[str]) -> Path:
    ending = path.suffixes[0]
    return write_text(path, format_rows(ending, [(text, "") for text in texts]))


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv.gz", "t.txt"])
def test_texts_are_answered_as_asking_the_teacher_and_known_by_their_lines(
    name: str, llm: Path, mood: Path, tmp_path: Path
) -> None:
    path = write_texts(tmp_path / name, TEXTS)
    reporter = SilentReporter()
    config = make_teacher_config(mood, llm, tmp_path / "c", texts=path)
    cache = run_teacher(config, reporter).cache
    rows, teacher, tokenizer = read_rows(cache), load_teacher(mood, llm), load_tokenizer(llm)
    first = 2 if ".csv" in name else 1
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


def test_other_texts_are_another_cache(llm: Path, mood: Path, tmp_path: Path) -> None:
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
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"body": "b"}\n')
    config = make_teacher_config(mood, llm, tmp_path / "c", texts=path)
    with pytest.raises(TextDataError, match="line 2: no key 'text'; there are 'body'"):
        run_teacher(config, SilentReporter())
    assert not (tmp_path / "c").exists()
