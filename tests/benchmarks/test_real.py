from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tiny import write_language_model

from benchmarks import choosing, inputs, kinds, priors, questions, real
from stages.lm import resolve_model

TEXTS = {
    "ag_news": [("Stocks fell again", "Business"), ("The cup is won", "Sports")] * 2,
    "reddit": [("so good", "positive"), ("so bad", "negative")] * 2,
    "imdb": [("so good", "positive"), ("so bad", "negative")] * 2,
}


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir()
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for task, rows in TEXTS.items():
        write_lines(folder / task / "test.jsonl.gz", [{"text": x, "label": y} for x, y in rows])
    emotions = {"wow": ["surprise"], "eh": ["neutral"], "sad and cross": ["sadness", "anger"]}
    rows = [{"text": text, "ekman": labels} for text, labels in emotions.items()]
    write_lines(folder / "goemotions/test.jsonl.gz", rows)
    return folder


def test_every_way_of_asking_is_measured_and_nothing_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_language_model(tmp_path / "smollm2")
    out = tmp_path / "real.md"
    command = ["--models", str(tmp_path), "--data", str(data), "--work", str(tmp_path / "work")]
    command += ["--out", str(out), "--only", "smollm2", "--tasks", "reddit"]
    command += ["--texts", "3", "--rows", "4", "--written", "2"]
    real.main(command)
    lines = [line for line in out.read_text().splitlines() if line.startswith("| Smol")]
    # 3 prompts in 4 ways of scoring, and the 3 averaged in 3 of them.
    assert len(lines) == 3 * 4 + 3
    assert all(line.count("|") == 20 for line in lines)
    kept = sorted((tmp_path / "work").iterdir())
    monkeypatch.setattr(questions, "make_teacher", None)
    real.main(command)
    real.main([*command, "--report"])
    assert [x for x in out.read_text().splitlines() if x.startswith("| Smol")] == lines
    assert sorted((tmp_path / "work").iterdir()) == kept


def test_a_text_of_several_labels_or_of_another_is_left_out(data: Path) -> None:
    task = questions.load_task("emotions")
    rows = list(questions.read_test(data / "goemotions/test.jsonl.gz", task))
    assert [(row.text, column) for row, column in rows] == [("wow", 5)]


@pytest.mark.slow
def test_students_are_trained_with_the_prior_and_without(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "real.md"
    command = ["--data", str(data), "--work", str(tmp_path / "work"), "--out", str(out)]
    command += ["--rows", "128", "--steps", "2", "--seeds", "1", "--texts", "4"]
    command += ["--tasks", "reddit"]
    priors.main(command)
    lines = [line.split(" | ")[:2] for line in out.read_text().splitlines() if " (" in line]
    assert lines[-3:] == [["| reddit", way] for way in priors.WAYS]


@pytest.mark.slow
def test_students_of_written_and_drawn_inputs_are_compared(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "CHOSEN", 4)
    monkeypatch.setattr(kinds, "LONGEST", 6)
    (tmp_path / "smollm2").symlink_to(resolve_model("mini"))
    out = tmp_path / "real.md"
    command = ["--models", str(tmp_path), "--data", str(data), "--work", str(tmp_path / "work")]
    command += ["--model", "smollm2", "--task", "reddit", "--rows", "128", "--steps", "2"]
    command += ["--device", "cpu", "--out", str(out), "--patience", "1"]
    first = ("unigram", "labelled", "shuffled", "labelled+unigram", "uniform", "interrupted-on")
    for what in ("answer", "train"):
        inputs.main([what, *command, "--seeds", "2", "--kinds", *first])
    for what in ("answer", "train", "report"):
        inputs.main([what, *command, "--kinds", "labelled+unsure"])
    table = out.read_text().partition("What the rows hold")[0].partition("|---|")[2]
    rows = [line[2:].split(" | ") for line in table.splitlines() if line.startswith("| ")]
    seeds = dict.fromkeys(first, "2") | {"labelled+unsure": "1"}
    assert {row[0]: row[1] for row in rows} == seeds


def test_own_texts_rank_ways_of_asking(tmp_path: Path) -> None:
    def write(name: str, accuracies: list[str]) -> Path:
        ways = [("prompt 1", "first-token, max"), ("prompt 1", "whole, sum"), ("prompt 2", "x")]
        model = questions.MODELS["qwen"]
        lines = [
            f"| {model} | reddit | {way} | {score} | {cell} ({cell}; 9) | {cell} (2.0; 9) |"
            for (way, score), cell in zip(ways, accuracies, strict=True)
        ]
        lines += [f"| {model} | reddit | 3 prompts | x | 99.0 (1.0; 9) | – |"]
        (tmp_path / name).write_text("\n".join([*lines, "| head | of | a | table | – | – |"]))
        return tmp_path / name

    real = write("real.md", ["50.0", "60.0", "70.5"])
    own = write("own.md", ["20.0", "40.0", "30.0"])
    (row,) = list(choosing.rank(real, own))[1:]
    cells = [cell.strip() for cell in row.strip("|\n").split("|")]
    assert cells[1:3] == ["reddit", "6"] and cells[4] == "0.50" and 0 < float(cells[3]) < 0.5
    assert cells[5:8] == ["prompt 1; whole, sum; none", "40.0", "60.0 (60.0)"]
    assert cells[8:] == ["60.0 (2.0)", "70.5 (70.5)", "3 of 3"]
