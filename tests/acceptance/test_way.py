"""The whole way, by the commands alone: a language model's answers, a student, its use."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Forked, Result, run_here, start
from tiny import write_language_model

from stages.lm import load_language_model

FILL = ("--rows", 200, "--chunk-rows", 8, "--shard-rows", 32, "--batch-positions", 512)
FILL += ("--dtype", "float32", "--self-generated", 16)
TRAIN = ("--steps", 8, "--batch-size", 16, "--log-every", 4, "--held-out-rows", 16)


def run_fresh(cwd: Path, *arguments: object) -> Result:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out.decode(), err.decode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as people have them."""
    folder = tmp_path / "my project (ü)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_from_a_language_model_to_tagged_text(place: Path, llm: Path, mood: Path) -> None:
    teacher = ("teacher", "--task", mood, "--model", llm, *FILL, "--summary", "t/mood.json")
    found = run_fresh(place, *teacher)
    assert (found.code, found.out) == (0, ""), found.err
    summary = read_json(place / "t" / "mood.json")
    assert summary["rows"] == 200
    assert set(summary["balance"]) == {"bad", "good"}
    assert (place / "data" / "cache" / summary["directory"] / "manifest.json").is_file()

    student = ("student", "--task", mood, "--arch", "mini", "--from", "t/mood.json", *TRAIN)
    student += ("--metrics", "reports/m.json", "--curve", "reports/c.csv")
    found = run_here(*student)
    assert found.code == 0, found.err
    out = place / "data" / "students" / "mood-mini"
    metrics = read_json(place / "reports" / "m.json")
    assert metrics["fingerprint"] == summary["fingerprint"]
    assert 0 <= metrics["agreement"] <= 1
    with (place / "reports" / "c.csv").open() as lines:
        assert [row["step"] for row in csv.DictReader(lines)] == ["4", "8"]

    found = run_here("tag", "--model", out, stdin=b"Good\n")
    assert json.loads(found.out)["label"] in ("bad", "good")
    (place / "rows.csv").write_text("text,label\nGood,good\nPoor,bad\n")
    found = run_here("evaluate", "--model", out, "--data", "rows.csv", "--teacher", llm, "--json")
    assert json.loads(found.out)["rows"] == 2
    assert run_here("evaluate", "--model", out).code == 0

    # Once more: nothing is computed, and what others depend on is the same to the byte.
    before = (place / "t" / "mood.json").read_bytes()
    found = run_here(*teacher)
    assert "every row was there already" in found.err
    assert (place / "t" / "mood.json").read_bytes() == before


def test_another_family_goes_the_same_way(place: Path, mood: Path) -> None:
    model = write_language_model(place / "model", "gemma2", "metaspace")
    assert run_here("teacher", "--task", mood, "--model", model, *FILL).code == 0
    found = run_here("student", "--task", mood, "--arch", "mini", *TRAIN, "--out", "out")
    assert found.code == 0
    found = run_here("tag", "--model", "out", stdin="Good film 😀\n\n".encode())
    assert [json.loads(line)["label"] is None for line in found.out.splitlines()] == [False]
    (entry,) = json.loads(run_here("cache", "list", "--json").out)
    assert entry["complete"]


def test_answers_that_are_nan_end_with_the_row(place: Path, mood: Path) -> None:
    folder = write_language_model(place / "model")
    model = load_language_model(folder, "cpu", "float32")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    command = ("teacher", "--task", mood, "--model", folder, *FILL, "--sampler")
    found = run_here(*command, "vocabulary")
    assert found.code == 1
    assert "no self-generated texts: LlamaForCausalLM cannot write" in found.err
    last = found.err.splitlines()[-1]
    assert last.startswith("error: ") and "shard 0" in last and "row 0" in last
    assert "NaN or infinite; nothing of this shard was written" in last
    # Who asks the model what it expects finds out before that.
    found = run_here(*command, "unigram")
    assert found.code == 1
    assert "weights are damaged" in found.err.splitlines()[-1]


def test_the_bundled_model_answers_real_texts(place: Path, shared: Path) -> None:
    with gzip.open(shared / "data" / "reddit" / "dev.jsonl.gz", "rt") as lines:
        rows = list(itertools.islice(lines, 40))
    (place / "dev.jsonl").write_text("".join(rows))
    teacher = ("teacher", "--task", "reddit", "--model", "mini", "--texts", "dev.jsonl")
    teacher += ("--batch-positions", 1024, "--self-generated", 4)
    found = run_here(*teacher)
    assert found.code == 0
    assert "computed 40 rows" in found.err
    command = ("evaluate", "--teacher", "mini", "--task", "reddit", "--data", "dev.jsonl")
    found = run_here(*command, "--json")
    assert json.loads(found.out)["teacher"]["accuracy"] > 0.6


def test_auto_is_the_bundled_model_where_there_is_no_gpu(place: Path) -> None:
    small = ("--rows", 8, "--self-generated", 0, "--batch-positions", 512)
    found = run_here("teacher", "--task", "imdb", *small)
    assert found.code == 0
    assert found.err.startswith("model: mini (auto: meta-llama/Llama-2-7b-hf needs a CUDA device")


def test_it_is_installed_as_a_command(place: Path) -> None:
    command = Path(sys.executable).parent / "pipeline"
    if not command.exists():
        pytest.skip("the project is not installed here")
    said = subprocess.run([command, "--version"], cwd=place, capture_output=True, check=True)
    assert said.stdout.startswith(b"pipeline, version ")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["roberta-large", "distilbert", "bert-base", "modernbert-base"])
def test_the_large_encoders_run_through_and_their_exports_load(
    arch: str, place: Path, tmp_path: Path
) -> None:
    assert run_here("teacher", "--task", "imdb", "--model", "mini", "--rows", 256).code == 0
    command = ("student", "--task", "imdb", "--arch", arch, "--init", "random", "--steps", 2)
    child = Forked(tmp_path / "run", *command, "--batch-size", 4, "--held-out-rows", 1)
    found = child.wait(600)
    assert found.code == 0, found.err
    out = place / "data" / "students" / f"imdb-{arch}"
    found = Forked(tmp_path / "tag", "tag", "--model", out, os.devnull).wait(120)
    assert found.code == 0, found.err
