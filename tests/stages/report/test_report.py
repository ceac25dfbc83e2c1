from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_students import write_everything, write_student

from stages.errors import ReportError
from stages.report.collect import Findings, collect
from stages.report.tables import Table, format_mean, tabulate
from stages.report.write import write_report


def gather(root: Path) -> Findings:
    return collect([root / "students"], [root / "evaluations"])


def find_table(found: Findings, key: str) -> Table:
    return next(table for table in tabulate(found) if table.key == key)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_everything(root)
    return root


def change(folder: Path, **changed: Any) -> None:
    """Change a student's record; None takes a key away."""
    file = folder / "training.json"
    record = json.loads(file.read_text()) | changed
    file.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def find_row(table: Table, *begins: str) -> list[str]:
    """The row that begins so, with ordinary spaces."""
    (row,) = [r for r in table.rows if all(a == b for a, b in zip(begins, r, strict=False))]
    return [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row]


def test_students_of_one_approach_are_one_row(root: Path) -> None:
    found = gather(root)
    assert len(found.runs) == 36 and found.tasks == ["ag_news", "imdb"]
    table = find_table(found, "accuracy")
    assert table.heads[:3] == ["approach", "ag_news: accuracy, %", "ag_news: macro-F1, %"]
    assert table.spans == [("", 1), ("ag_news", 2), ("imdb", 2)]
    assert [row[0] for row in table.rows] == [
        "the teacher itself",
        "direct training on labelled texts, mini",
        "distilled on training texts, mini",
        "distilled on training texts, static",
        "distilled on the teacher's self-generated texts, mini",
        "projection, uniform inputs, Algorithm 1, mini",
        "projection, unigram inputs, no text, mini",
    ]
    row = find_row(table, "distilled on training texts, static")
    assert row[1:3] == ["87.0 ± 1.0", "86.0 ± 1.0"]
    assert find_row(table, "the teacher itself")[1:] == ["91.0", "90.0"] * 2
    # Costs are compared with direct training's.
    table = find_table(found, "cost")
    direct = find_row(table, "direct training on labelled texts, mini", "imdb")
    assert direct[2:8] == ["yes", "yes", "0", "11", "11", "1.00 ×"]
    name = "distilled on the teacher's self-generated texts, mini"
    written = find_row(table, name, "imdb")
    assert written[2:] == ["no", "no", "30", "11", "41", "3.73 ×"]


def test_seconds_that_are_not_known_are_not_0(tmp_path: Path) -> None:
    for seed in range(2):
        change(write_student(tmp_path, "t", "texts", seed, 0.8), preparation=None)
    change(write_student(tmp_path, "t", "texts", 2, 0.8), preparation={"seconds": 3.0})
    change(write_student(tmp_path, "t", "direct", 0, 0.8), seconds={})
    table = find_table(gather(tmp_path), "cost")
    assert find_row(table, "distilled on training texts, mini")[4:] == ["–", "11", "–", "–"]
    assert find_row(table, "direct training on labelled texts, mini")[4:] == ["0", "–", "–", "–"]


def test_a_student_that_answers_a_constant_is_in_the_tables(tmp_path: Path) -> None:
    write_everything(tmp_path)
    folder = next((tmp_path / "students").rglob("training.json")).parent
    held = json.loads((folder / "training.json").read_text())["held_out"]
    change(folder, held_out=held | {"centred_angle": math.nan})
    found = gather(tmp_path)
    assert folder in [run.path for run in found.runs]
    assert not any(str(folder) in fault for fault in found.faults)
    write_report(found, "Title", tmp_path / "out")


def test_agreement_on_labelled_texts_is_told_where_it_is_known(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.8, 0.7, 0.9)):
        write_student(tmp_path, "t", "texts", seed, accuracy)
        scores = tmp_path / "evaluations" / "t" / f"texts-{seed}.json"
        agreement = {"agreement": 0.5 + seed / 10}
        scores.write_text(json.dumps(json.loads(scores.read_text()) | agreement))
    found = gather(tmp_path)
    accuracy_table = find_table(found, "accuracy")
    assert accuracy_table.heads[-1] == "t: agreement, %"
    assert accuracy_table.rows[-1][-1].startswith("60.0")


def test_what_is_missing_is_said(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "root"
    shutil.copytree(root, place)
    shutil.rmtree(place / "students" / "imdb" / "self-1")
    for approach in ("direct-0", "direct-1", "direct-2"):
        shutil.rmtree(place / "students" / "ag_news" / approach)
    (place / "evaluations" / "imdb" / "texts-0.json").unlink()
    (place / "evaluations" / "imdb" / "teacher.json").unlink()
    (place / "evaluations" / "imdb" / "noise.json").write_text("[1]")
    (place / "students" / "imdb" / "texts-1" / "training.json").write_text("{")
    change(place / "students" / "imdb" / "texts-2", held_out={"rows": "many"})
    for path in (place / "evaluations").rglob("*-?.json"):
        path.write_text(path.read_text().replace(str(root), str(place)))
    said = "\n".join(gather(place).faults)
    for part in (
        "imdb: 2 of 3 seeds of “distilled on the teacher's self-generated texts, mini”",
        "ag_news: 0 of 3 seeds of “direct training on labelled texts, mini”",
        "noise.json is not what it must be",
        "self-1.json is of",
        "texts-0 was not measured on labelled texts",
        "imdb: the teacher itself was not measured",
        "texts-2/training.json is not what it must be: held_out.rows: Input should be",
        "texts-1/training.json is not what it must be: Expecting",
    ):
        assert part in said, part


def rewrite(path: Path, **changed: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.loads(path.read_text()) if path.exists() else {"rows": 500}
    path.write_text(json.dumps(data | changed))


def test_evaluations_are_never_given_to_the_wrong_student(tmp_path: Path) -> None:
    for task in ("a", "b"):
        write_student(tmp_path, task, "texts", 0, 0.8)
    place, scores = tmp_path / "evaluations", {"accuracy": 0.5, "macro_f1": 0.5}
    (place / "a" / "texts-0.json").unlink()
    rewrite(place / "texts-0.json", student=scores)
    rewrite(place / "b" / "z.json", student=scores, model=str(tmp_path / "students/b/texts-0"))
    rewrite(place / "a" / "texts-0.json", student=scores, model="x/y/texts-0")
    other = str(tmp_path / "students" / "a" / "texts-0")
    rewrite(place / "a" / "other.json", student=scores, model=other, task="b")
    rewrite(place / "a" / "held.json", agreement=0.5)
    found = gather(tmp_path)
    assert [run.score("accuracy") for run in found.runs] == [None, 0.8]
    said = "\n".join(found.faults)
    for part in (
        f"{place}/texts-0.json is of a student that it does not name",
        "z.json is a second evaluation of",
        "is of x/y/texts-0: not among these, or trained anew since",
        f"other.json is of {other}: not among these",
    ):
        assert part in said, part


def test_a_student_that_was_moved_keeps_its_evaluation_and_copies_count_once(
    tmp_path: Path,
) -> None:
    folder = write_student(tmp_path, "t", "texts", 0, 0.8)
    evaluation = tmp_path / "evaluations" / "t" / "texts-0.json"
    change(folder, identity="one")
    rewrite(evaluation, identity="one")
    moved = folder.rename(tmp_path / "students" / "moved")
    assert gather(tmp_path).runs[0].score("accuracy") == 0.8
    copy = shutil.copytree(moved, tmp_path / "students" / "copy")
    for students in ([tmp_path / "students"], [tmp_path / "students", moved]):
        found = collect(students, [tmp_path / "evaluations"])
        assert [run.score("accuracy") for run in found.runs] == [0.8]
        assert f"{moved} is the same student as {copy}" in "\n".join(found.faults)
    shutil.rmtree(copy)
    # An ONNX file of it may be rounded.
    rewrite(evaluation, model=str(tmp_path / "exports" / "model-int8.onnx"))
    assert gather(tmp_path).runs[0].score("accuracy") is None
    # One that was measured before the student was trained anew is of another student.
    rewrite(evaluation, identity="old", model=str(tmp_path / "students" / "moved"))
    found = gather(tmp_path)
    assert found.runs[0].score("accuracy") is None
    assert "moved: not among these, or trained anew since" in "\n".join(found.faults)


def test_a_real_student_is_shown(student: Path, tmp_path: Path) -> None:
    found = collect([student.parent], [])
    files = write_report(found, "One", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mood" in page and "was not measured on labelled texts" in page
    assert {path.suffix for path in files} == {".html", ".md", ".csv", ".svg"}


def test_a_report_is_one_page_the_same_each_time(tmp_path: Path) -> None:
    write_everything(tmp_path / "new", ("imdb",))
    found = gather(tmp_path / "new")
    first, again = (
        {p.name: p.read_bytes() for p in write_report(found, "Title", tmp_path / name)}
        for name in ("a", "b")
    )
    assert first == again
    page = first["report.html"].decode()
    # Nothing is fetched: no script, no link but to the page's own parts.
    assert "<script" not in page and "@import" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert page.count('src="data:image/svg+xml;base64,') == 1
    rows = list(csv.reader(io.StringIO(first["accuracy.csv"].decode())))
    assert rows[0][0] == "approach" and len(rows) == 8
    assert first["report.md"].decode().startswith("# Title\n\n18 students of 1 task.\n")
    assert "2 cores, x86_64, threads: 1" in page
    # An earlier report is replaced, anything else is not.
    few = dataclasses.replace(found, runs=found.runs[:1])
    assert write_report(few, "Other", tmp_path / "a")[-1].suffix == ".csv"
    assert not (tmp_path / "a" / "figures").exists()
    assert "Other" in (tmp_path / "a" / "report.md").read_text()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    with pytest.raises(ReportError, match="something else"):
        write_report(found, "Title", tmp_path / "c")
    (tmp_path / "a" / "mine.txt").write_text("mine")
    with pytest.raises(ReportError, match=r"something else than a report: mine\.txt"):
        write_report(found, "Title", tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "new"]


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = [{"step": 1, "c_learned": float("nan")}, {"angle": 0.5}, {"step": 2, "angle": None}]
    change(write_student(tmp_path, "t", "letter", 0, 0.8), curve=curve)
    found = gather(tmp_path)
    write_report(found, "First", tmp_path / "out")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("stages.report.write.publish_directory", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(found, "Second", tmp_path / "out")
    assert "First" in (tmp_path / "out" / "report.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluations", "out", "students"]


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    nasty = "<b>&\"'|x $\\frac{ `*[y](z)`"
    for seed, name in enumerate((nasty, nasty.upper(), "日本")):
        for approach in ("projection", "letter"):
            change(write_student(tmp_path, "t", approach, seed, 0.8), task={"name": name})
    found = gather(tmp_path)
    files = write_report(found, nasty, tmp_path / "out")
    assert len(set(files)) == len(files) and all(file.stat().st_size for file in files)
    assert len([file for file in files if file.parent.name == "figures"]) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page
    told = (tmp_path / "out" / "report.md").read_text()
    assert "<b>" not in told and "\\|x" in told


def test_settings_tell_rows_of_one_approach_apart(tmp_path: Path) -> None:
    for task, several in (("a", (50, 200)), ("b", (50, 50))):
        for seed, steps in enumerate(several):
            folder = write_student(tmp_path, task, "texts", seed, 0.8)
            change(folder, training={"steps": steps, "seed": seed})
    for seed, sampler in enumerate(("unigram", "vocabulary=0.5,self=0.5")):
        change(write_student(tmp_path, "a", "projection", seed, 0.8), sampler=sampler)
    for seed in range(2):
        folder = write_student(tmp_path, "a", "self", seed, 0.8)
        change(folder, fingerprint=f"{seed}" * 64)
    assert {g.name: sum(map(len, g.runs.values())) for g in gather(tmp_path).groups} == {
        "distilled on training texts, mini, steps 200": 1,
        "distilled on training texts, mini, steps 50": 3,
        "distilled on the teacher's self-generated texts, mini, cache 000000000000": 1,
        "distilled on the teacher's self-generated texts, mini, cache 111111111111": 1,
        "projection, unigram inputs, no text, mini": 1,
        "projection, vocabulary=0.5,self=0.5 inputs, no text, mini": 1,
    }
    # What depends on the task may differ from task to task.
    for task in ("c", "d"):
        folder = write_student(tmp_path / "new", task, "texts", 0, 0.8)
        change(folder, training={"steps": 10 * ord(task), "seed": 0}, fingerprint=task * 64)
    assert len(gather(tmp_path / "new").groups) == 1


JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(0, 1), max_size=2)
    | st.dictionaries(st.sampled_from(["rows", "agreement", "step"]), st.integers(0, 1))
)


@given(st.data())
def test_no_damage_of_a_file_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("damage")
    folder = write_student(place, "t", "letter", 0, 0.8)
    file = data.draw(
        st.sampled_from([folder / "training.json", place / "evaluations" / "t" / "letter-0.json"])
    )
    value = content = json.loads(file.read_text())
    while isinstance(value, dict | list) and value:
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        inside, key = value, data.draw(st.sampled_from(list(keys)))
        value = value[key]
        if data.draw(st.booleans()):
            break
    inside[key] = data.draw(JUNK)
    file.write_text(json.dumps(content))
    try:
        found = gather(place)
    except ReportError as error:
        assert "letter-0" in str(error)
        return
    for table in tabulate(found):
        assert all(len(row) == len(table.heads) for row in table.rows)


def test_nothing_and_nonsense_are_refused(tmp_path: Path) -> None:
    (tmp_path / "students").mkdir()
    with pytest.raises(ReportError, match=r"nothing to report .* train a student first"):
        gather(tmp_path)
    (tmp_path / "students" / "training.json").write_text("{")
    with pytest.raises(ReportError, match=r"training\.json is not what it must be: Expecting"):
        gather(tmp_path)


@given(st.lists(st.none() | st.floats(0, 1), max_size=6))
def test_means_are_of_what_is_known(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    text = format_mean(values, len(values))
    assert (text == "–") == (not known)
    assert ("±" in text) == (len(known) > 1)
    assert (f"(n = {len(known)})" in text) == (0 < len(known) < len(values))
    if known:
        mean, _, spread = text.split(" (n")[0].partition("±")
        assert abs(float(mean) - 100 * np.mean(known)) <= 0.051
        if spread:
            assert abs(float(spread) - 100 * np.std(known, ddof=1)) <= 0.051
