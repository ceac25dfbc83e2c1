from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Result

from benchmarks import student as benchmark
from benchmarks.exactness import measure_accuracy
from benchmarks.rivals import PromptedTeacher
from benchmarks.serving import OBVIOUS, Times, format_speed, measure_times
from benchmarks.stepping import BareLoop
from benchmarks.trial import QUICK, Trial
from stages.export import FLOAT32, INT8
from stages.lm import load_language_model, resolve_model
from stages.student.model import Student, build_encoder
from stages.tasks.task import load_task
from stages.teacher.teacher import Teacher

TEXTS = ["what a lovely day 😀", "", "no", "this is the worst thing that I have ever seen " * 20]


@pytest.fixture(scope="module")
def rival() -> PromptedTeacher:
    return PromptedTeacher.load(load_task("reddit"))


def test_the_teacher_is_asked_what_stage_one_asks(rival: PromptedTeacher) -> None:
    model = load_language_model(resolve_model("mini"), "cpu", "float32")
    teacher = Teacher(model, rival.tokenizer, load_task("reddit"))
    wanted = []
    for ids in rival.tokenizer(TEXTS, add_special_tokens=False)["input_ids"]:
        row = np.array([ids[: rival.max_length]], dtype=np.int64)
        wanted.append(teacher.compute_class_logits(teacher.look_up(row)).softmax(dim=1)[0].numpy())
    np.testing.assert_allclose(rival.tag_each(TEXTS), wanted, atol=1e-5)
    np.testing.assert_allclose(rival.tag_padded(TEXTS), wanted, atol=1e-5)
    assert np.std(wanted, axis=0).max() > 0.01  # or agreeing would mean little


def test_the_bare_loop_trains() -> None:
    torch.manual_seed(0)
    student = Student(build_encoder("static", "random", ("a", "b"), 8), torch.zeros(4), 1.0)
    before = [p.detach().clone() for p in student.parameters()]
    loop = BareLoop(student, [(2, 3), (2, 0), (1, 8), (2, 1)], lengths_per_batch=2, classes=2)
    loop.step()
    loop.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True)]
    assert any(moved)
    with pytest.raises(IndexError):
        loop.step()


def test_all_answer_the_same_texts_in_turns() -> None:
    asked: dict[str, list[list[str]]] = {"one": [], "two": [], "batched": []}
    answers = {name: calls.append for name, calls in asked.items()}
    batched = {"batched": answers.pop("batched")}
    texts = [str(k) for k in range(32)]
    found = measure_times(answers, batched, texts, QUICK)
    assert asked["one"] == asked["two"]
    assert asked["one"][:3] == asked["batched"] == [texts[:16], texts[:16], texts[16:]]
    assert asked["one"][3:] == [[text] for text in texts[: QUICK.singles]]
    assert [len(found[name].singles) for name in ("one", "batched")] == [QUICK.singles, 0]


def test_ratios_are_to_the_obvious_teacher() -> None:
    times = {OBVIOUS: Times([1.0, 3.0], [0.1, 0.3]), "other": Times([0.5, 0.5], [0.01, 0.01])}
    *_, other = format_speed(times, batch=10)
    cells = [cell.strip() for cell in other.strip("|").split("|")]
    assert cells == ["other", "20", "4.0 (2.0-6.0)", "10.000", "20.0", "10.000", "29.8"]


def test_a_section_replaces_only_itself() -> None:
    steps, speed = "\n## Steps a second\n\nold\n", "\n## Speed on one core\n\n### of all\n\nfast\n"
    first = benchmark.merge_sections("", {"Speed on one core": speed})
    both = benchmark.merge_sections(first, {"Steps a second": steps})
    assert both.index("old") < both.index("fast")
    again = benchmark.merge_sections(both, {"Steps a second": steps.replace("old", "new")})
    assert again == both.replace("old", "new")


def test_steps_and_speed_give_their_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.serving.time_start", lambda model: 1.0)
    out = tmp_path / "student.md"
    benchmark.main(["--quick", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "accuracy was left out" in printed
    text = out.read_text()
    assert printed.startswith(text.strip())
    steps, speed, starts = read_tables(text)
    assert [row[0] for row in steps] == ["static"]
    ratio, low, high = map(float, re.findall(r"[\d.]+", steps[0][4]))
    assert 0 < low <= ratio <= high
    assert [row[0] for row in speed] == [
        "mini teacher, padded batches",
        OBVIOUS,
        *("static, torch", "static, ONNX", "static, ONNX int8"),
    ]
    assert all(float(row[1].replace(",", "")) > 0 for row in speed)
    assert [row[0] for row in starts] == ["static, ONNX", "static, torch"]


def test_accuracy_is_counted_for_each_form(
    student: Path,
    exported: tuple[Path, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = tuple(exported[0] / name for name in (FLOAT32, INT8))
    monkeypatch.setattr("benchmarks.exactness.write_onnx", lambda *places: files)
    data, results = tmp_path / "data", tmp_path / "results"
    (data / "mood").mkdir(parents=True)
    rows = [{"text": "good " * k, "label": "good" if k % 4 else "bad"} for k in range(8)]
    with gzip.open(data / "mood" / "test.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    shutil.copytree(student, results / "mood-random-mini")
    lines = list(measure_accuracy(tmp_path / "onnx", data, results, ("mood", "absent")))
    (row,) = read_tables("\n".join(lines))[0]
    original, onnx, eight, difference = (float(re.findall(r"-?[\d.]+", c)[0]) for c in row[2:6])
    assert row[:2] == ["mood", "8"]
    assert original == onnx and original in {12.5 * k for k in range(9)}
    assert difference == eight - original
    assert "absent-random-mini is not there; `make results DATA=DIR`" in lines[-1]


def test_accuracy_alone_needs_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--only", "accuracy"])
    assert stopped.value.code == 2 and "--data" in capsys.readouterr().err


def test_the_cache_of_a_trial_is_made_once(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "reddit", QUICK)
    assert trial.cache is trial.cache
    first, second = (trial.build_student("static").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def read_tables(text: str) -> list[list[list[str]]]:
    """Return the cells of the rows of each table."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|---"):
            tables.append([])
            inside = True
        elif inside and line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip().strip("|").split("|")])
        else:
            inside = False
    return tables
