from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mini import recipe as script
from benchmarks.mini.batches import (
    SPECIALS,
    Example,
    Frame,
    Item,
    Phase,
    Recipe,
    build_frames,
    collate_batch,
    draw_window,
    plan_pass,
)
from stages.checkpoints import load_tokenizer
from stages.errors import TextDataError
from stages.lm import load_language_model, resolve_model
from stages.tasks.task import load_task
from stages.teacher.teacher import Teacher


@dataclass(frozen=True)
class Small(Recipe):
    vocabulary: int = 395
    width: int = 32
    layers: int = 1
    heads: int = 2
    intermediate: int = 48
    phases: tuple[Phase, ...] = ((12, (1.0, 1.0, 1.0), 4e-3), (4, (0.5, 1.0, 1.0), 2e-3))
    batch_tokens: int = 512


SMALL = Small()


def write_data(folder: Path) -> Path:
    """Texts that give their label away."""
    for name in SMALL.tasks:
        path = folder / name / "train.jsonl.gz"
        path.parent.mkdir(parents=True)
        labels = load_task(name).labels
        rows = []
        for k in range(96):
            label = labels[k % len(labels)]
            word = label.words[k // len(labels) % len(label.words)]
            text = f"{word} {word} answer: {k % 7}<br />"
            rows.append(json.dumps({"text": text, "label": label.name}))
        path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return folder


Made = tuple[list[Frame], list[Example]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return script.read_examples(write_data(tmp_path_factory.mktemp("data")), SMALL)[1:]


@given(st.integers(0, 600), st.integers(1, 300), st.integers(0, 2**32))
def test_a_window_lies_within_its_text_and_is_no_longer_than_allowed(
    length: int, longest: int, seed: int
) -> None:
    start, end = draw_window(length, longest, np.random.default_rng(seed))
    assert 0 <= start <= end <= length
    assert end - start <= longest
    assert end - start >= min(length, longest, 8)


def test_a_pass_takes_every_text_once_in_batches_of_limited_size(made: Made) -> None:
    frames, examples = made
    batches = plan_pass(examples, frames, SMALL, 0, (1.0, 1.0, 1.0))
    items = [item for batch in batches for item in batch]
    assert sorted(number for number, _, _ in items) == list(range(len(examples)))
    for batch in batches:
        longest = max(end - start for _, start, end in batch)
        assert len(batch) == 1 or len(batch) * (longest + 20) <= SMALL.batch_tokens
    assert plan_pass(examples, frames, SMALL, 0, (1.0, 1.0, 1.0)) == batches
    assert plan_pass(examples, frames, SMALL, 1, (1.0, 1.0, 1.0)) != batches
    # Of a task whose share is smaller, some.
    batches = plan_pass(examples, frames, SMALL, 0, (0.0, 0.5, 1.0))
    tasks = [examples[number].task for batch in batches for number, _, _ in batch]
    assert (tasks.count(0), tasks.count(2)) == (0, 96) and 20 < tasks.count(1) < 76


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_batch_asks_for_what_follows_each_position_and_reads_the_answer_at_the_end(
    noise: float, made: Made
) -> None:
    frames, examples = made
    items: list[Item] = [(0, 0, 4), (100, 1, 3), (200, 0, 0), (37, 0, len(examples[37].ids))]
    recipe = replace(SMALL, noise=noise, text_share=1.0)
    batch = collate_batch(items, examples, frames, recipe, np.random.default_rng(0))
    for row, (number, start, end) in enumerate(items):
        example = examples[number]
        frame = frames[example.task]
        text = example.ids[start:end].tolist()
        answer = frame.words[example.label][0]
        clean = [*frame.prefix, *text, *frame.suffix, answer]
        size, first = len(clean), len(frame.prefix)
        ids, targets = batch.ids[row].tolist(), batch.targets[row].tolist()
        at = batch.answer_at[row].item()
        # The answer is read behind the suffix's last token, and stands right behind it.
        assert at == size - 2
        assert ids[at] == frame.suffix[-1]
        assert ids[at + 1] == answer
        assert ids[:first] == list(frame.prefix)
        assert ids[first + len(text) : size] == clean[first + len(text) :]
        assert (ids[first : first + len(text)] == text) == (noise == 0.0 or not text)
        assert min(ids[first : first + len(text)], default=SPECIALS) >= SPECIALS
        # Targets are the clean text shifted by one, whatever noise stands at the input.
        assert targets[: first - 1] == [-1] * (first - 1)
        assert targets[first - 1 : size - 2] == clean[first : size - 1]
        assert targets[size - 2 : size] == [-1, SPECIALS - 1]
        assert set(targets[size:]) <= {-1}
        assert set(ids[size:]) <= {SPECIALS - 1}
        words = [word for word in batch.words[row].tolist() if word >= 0]
        assert words == frame.words[example.label]


def test_only_a_share_of_the_text_is_asked_for(made: Made) -> None:
    frames, examples = made
    items = [(k, 0, len(examples[k].ids)) for k in range(90)]
    batch = collate_batch(items, examples, frames, SMALL, np.random.default_rng(0))
    positions = sum(len(examples[k].ids) + len(frames[0].suffix) for k in range(90))
    asked = int((batch.targets >= 0).sum()) - len(items)
    assert asked / positions == pytest.approx(SMALL.text_share, rel=0.2)


def test_rare_labels_weigh_more_where_asked_to_and_unknown_ones_are_named() -> None:
    tokenizer = load_tokenizer(resolve_model("mini"))
    labels = ["negative"] * 30 + ["positive"] * 10
    recipe = replace(SMALL, tasks=("imdb", "reddit"), balanced=("imdb",))
    imdb, reddit = build_frames(recipe, tokenizer, [labels, labels])
    assert imdb.weights == pytest.approx([40 / 60, 40 / 20])
    assert reddit.weights == [1.0, 1.0]
    with pytest.raises(TextDataError, match=r"imdb: the labels \['neutral'\]"):
        build_frames(recipe, tokenizer, [["negative", "neutral"], labels])


@pytest.mark.slow
def test_the_script_trains_a_model_and_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "Recipe", Small)
    data = write_data(tmp_path / "data")
    command = ["--data", str(data), "--work", str(tmp_path / "work"), "--out"]
    assert script.main([*command, str(tmp_path / "one")]) == 0
    said = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", said)]
    assert losses[-1] < 0.8 * losses[0]
    assert "held out: imdb" in said
    assert script.main([*command, str(tmp_path / "two")]) == 0
    assert "continuing at step 200 of" in capsys.readouterr().out
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("one", "two")]
    assert weights[0] == weights[1]
    model = load_language_model(tmp_path / "one", "cpu", "float32")
    teacher = Teacher(model, load_tokenizer(tmp_path / "one"), load_task("reddit"))
    assert teacher.fallbacks == []
    assert teacher.compute_class_logits(teacher.table[torch.tensor([[5, 6]])]).shape == (1, 2)


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--data", str(tmp_path), "--work", str(tmp_path)]) == 1
    found = capsys.readouterr().err
    assert found.startswith("error: cannot read ")
    assert "imdb/train.jsonl.gz" in found
