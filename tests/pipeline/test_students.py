from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from processes import run_here
from tiny import write_encoder

from stages.teacher.stage import TeacherResult

Filled = tuple[Path, TeacherResult]
SHORT = ("--steps", 4, "--batch-size", 16, "--held-out-rows", 16, "--log-every", 2)


@pytest.fixture
def start(filled: Filled, mood: Path, tmp_path: Path) -> list[object]:
    other = write_encoder(tmp_path / "other", "bert")
    names = ("--arch", "mini", "--arch", other)
    return ["student", "--task", mood, "--cache", filled[0], *SHORT, *names]


def test_several_students_come_from_one_cache_in_one_go(
    start: list[object], filled: Filled, tmp_path: Path
) -> None:
    places = [f"--{key}={tmp_path}/{key}/{{arch}}" for key in ("out", "curve", "metrics")]
    first = run_here(*start, *places)
    assert first.code == 0, first.err
    for name in ("mini", "other"):
        record = json.loads((tmp_path / "out" / name / "training.json").read_text())
        assert record["fingerprint"] == filled[1].cache.fingerprint
        found = json.loads((tmp_path / "metrics" / name).read_text())
        assert found["agreement"] == record["held_out"]["agreement"]
        assert (tmp_path / "curve" / name).read_text().startswith("step,loss,")
    # As after a kill between the two: what is there is not trained again.
    weights = tmp_path / "out" / "mini" / "model.safetensors"
    before = weights.stat()
    shutil.rmtree(tmp_path / "out" / "other")
    second = run_here(*start, *places)
    assert second.code == 0, second.err
    assert f"an earlier run has trained {tmp_path}/out/mini" in second.err
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "out" / "other" / "model.safetensors").is_file()
    # Under other settings it is.
    third = run_here(*start, *places, "--seed", 1)
    assert "an earlier run" not in third.err
    assert weights.stat().st_ino != before.st_ino


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--out", "there"), "--out: got there for 2 students; put {arch} into it"),
        (("--metrics", "m.json"), "--metrics: got m.json for 2 students"),
        (("--curve", "c.csv"), "--curve: got c.csv for 2 students"),
        (("--arch", "a/other"), "other is given twice"),
        (("--curve", "."), "Invalid value for '--curve': File '.' is a directory."),
        # What is wrong with the last one shows before the first is trained.
        (("--arch", "no-such-encoder"), "no-such-encoder"),
    ],
)
def test_two_students_in_one_place_are_refused_and_all_are_looked_at_first(
    more: tuple[str, str], named: str, start: list[object], tmp_path: Path
) -> None:
    found = run_here(*start, "--out", tmp_path / "out" / "{arch}", *more)
    assert found.code == (1 if named in more else 2)
    assert named in found.err and "step 2:" not in found.err
    assert not (tmp_path / "out").exists()


def test_labelled_texts_train_without_a_teacher(llm: Path, mood: Path, tmp_path: Path) -> None:
    texts = tmp_path / "rows.csv"
    texts.write_text("said,is\n" + "Good day,good\nBad day,bad\n" * 70)
    command = ["student", "--task", mood, "--arch", "static", "--labels", "gold", *SHORT]
    command += ["--texts", texts, "--text-column", "said", "--model", llm, "--out", tmp_path / "o"]
    found = run_here(*command, "--label-column", "is", "--metrics", tmp_path / "m.json")
    assert found.code == 0, found.err
    told = ("labels: bad 70, good 70", "(140 with labels, no teacher)", "agreement with the l")
    assert all(part in found.err for part in told)
    assert json.loads((tmp_path / "m.json").read_text())["held_out_rows"] == 64
    found = run_here(*command)
    assert found.code == 2
    assert found.err.splitlines()[-1] == (
        f"error: {texts}, line 2: the text has no label: no key or column 'label'; there are "
        "'said', 'is' (--label-column)"
    )
    numbered = tmp_path / "numbered.csv"
    numbered.write_text(texts.read_text().replace(",good", ",1").replace(",bad", ",0"))
    command[command.index(texts)] = numbered
    found = run_here(*command, "--label-column", "is")
    assert found.code == 2
    assert found.err.endswith("others like it are '0' (--label-map 0=bad,1=good)\n")
    command[command.index(tmp_path / "o")] = tmp_path / "p"
    found = run_here(*command, "--label-column", "is", "--label-map", "1=good,0=bad")
    assert found.code == 0, found.err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "op"]
    assert weights[0] == weights[1]
    two = ("--arch", "mini", "--out", tmp_path / "{arch}")
    found = run_here(*command, *two, "--texts", "-", "--label-column", "is")
    assert found.code == 2
    assert "is a pipe, which is read once, and 2 students need it" in found.err
    plain = ("student", "--task", mood, "--arch", "static")
    for own, named in (
        (("--label-map", "1=good"), "it is for labels gold (--labels)"),
        (("--texts", texts), "let the teacher answer the texts first and give its cache"),
    ):
        found = run_here(*plain, *own)
        assert (found.code, named in found.err) == (2, True)
