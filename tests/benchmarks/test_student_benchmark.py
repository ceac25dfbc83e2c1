from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import student as benchmark
from benchmarks.serving import (
    OBVIOUS,
    PADDED,
    QUICK,
    Times,
    format_speed,
    load_teacher,
    measure_times,
)
from benchmarks.stepping import train_barely
from stages.checkpoints import load_tokenizer
from stages.lm import load_language_model, resolve_model
from stages.student import Student, build_encoder
from stages.tasks import load_task
from stages.teacher import Teacher

TEXTS = ["what a lovely day 😀", "", "no", "this is the worst thing that I have ever seen " * 20]


def test_the_teacher_is_asked_what_stage_one_asks() -> None:
    task = replace(load_task("reddit"), word_score="first-token", label_score="max")
    tokenizer = load_tokenizer(resolve_model("mini"))
    teacher = Teacher(load_language_model(resolve_model("mini"), "cpu", "float32"), tokenizer, task)
    wanted = []
    for ids in tokenizer(TEXTS, add_special_tokens=False)["input_ids"]:
        row = np.array([ids[: task.max_length]], dtype=np.int64)
        wanted.append(teacher.compute_class_logits(teacher.look_up(row)).softmax(dim=1)[0].numpy())
    for answer in load_teacher(task):
        np.testing.assert_allclose(answer(TEXTS), wanted, atol=1e-5)
    assert np.std(wanted, axis=0).max() > 0.01  # or agreeing would mean little


def test_the_bare_loop_trains() -> None:
    torch.manual_seed(0)
    student = Student(build_encoder("static", "random", ("a", "b"), 8), torch.zeros(4), 1.0)
    before = [p.detach().clone() for p in student.parameters()]
    shapes = [(2, 3), (2, 0), (1, 8), (2, 1)]
    assert list(train_barely(student, shapes, lengths_per_batch=2, classes=2)) == [None, None]
    moved = [not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True)]
    assert any(moved)


def test_all_answer_the_same_texts_in_turns() -> None:
    asked: dict[str, list[list[str]]] = {"one": [], "two": [], PADDED: []}
    texts = [str(k) for k in range(32)]
    found = measure_times({name: calls.append for name, calls in asked.items()}, texts, QUICK)
    assert asked["one"] == asked["two"]
    assert asked["one"][:3] == asked[PADDED] == [texts[:16], texts[:16], texts[16:]]
    assert asked["one"][3:] == [[text] for text in texts[: QUICK.singles]]
    assert [len(found[name].singles) for name in ("one", PADDED)] == [QUICK.singles, 0]


def test_ratios_are_to_the_obvious_teacher() -> None:
    times = {OBVIOUS: Times([1.0, 3.0], [0.1, 0.3]), "other": Times([0.5, 0.5], [0.01, 0.01])}
    *_, other = format_speed(times, batch=10)
    cells = [cell.strip() for cell in other.strip("|").split("|")]
    assert cells == ["other", "20", "4.0 (2.0-6.0)", "10.000", "20.0", "10.000", "29.8"]


@pytest.mark.slow
def test_steps_and_speed_give_their_tables(tmp_path: Path) -> None:
    out = tmp_path / "student.md"
    benchmark.main(["--quick", "--out", str(out)])
    tables = re.findall(r"^\|---.*\n((?:\|.*\n)*)", out.read_text(), flags=re.MULTILINE)
    steps, speed = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in tables
    )
    assert [row[0] for row in steps] == ["static"]
    ratio, low, high = map(float, re.findall(r"[\d.]+", steps[0][4]))
    assert 0 < low <= ratio <= high
    forms = ("static, torch", "static, ONNX", "static, ONNX int8")
    assert [row[0] for row in speed] == [PADDED, OBVIOUS, *forms]
    assert all(float(row[1].replace(",", "")) > 0 for row in speed)
