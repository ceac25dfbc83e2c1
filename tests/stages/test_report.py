from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_students import write_everything, write_student

from stages.errors import ReportError, SettingError
from stages.report import Findings, collect
from stages.report_files import write_report
from stages.report_page import format_student_command, write_page
from stages.report_tables import Table, format_mean, list_tables, tabulate_accuracy, tabulate_cost

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "paper" / "published.yaml"


def gather(root: Path, published: Path | None = PUBLISHED) -> Findings:
    return collect([root / "students"], [root / "evaluations"], root / "cache", published)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_everything(root)
    return root


def find_row(table: Table, *begins: str) -> tuple[str, ...]:
    (row,) = [r for r in table.rows if all(a == b for a, b in zip(begins, r, strict=False))]
    return row


def test_students_of_one_approach_are_one_row(root: Path) -> None:
    found = gather(root)
    assert len(found.runs) == 36 and found.tasks == ("ag_news", "imdb")
    table = tabulate_accuracy(found)
    assert table.heads[:3] == ("approach", "ag_news", "ag_news: Llama-2-7b, published")
    assert [row[0].split(",")[0] for row in table.rows] == [
        "the teacher itself",
        "direct training on labelled texts",
        "distilled on training texts",
        "distilled on training texts",
        "distilled on the teacher's own texts",
        "projection",
        "projection",
    ]
    row = find_row(table, "distilled on training texts, static")
    assert row[1] == "87.0 ± 1.0% / 86.0 ± 1.0%" and row[2] == "91.6% / 91.5%"
    assert find_row(table, "the teacher itself")[1:] == ("91.0% / 90.0%", "–") * 2


def test_costs_stand_beside_direct_training(root: Path) -> None:
    table = tabulate_cost(gather(root))
    direct = find_row(table, "direct training on labelled texts, mini", "imdb")
    assert direct[2:7] == ("texts and labels", "0 s", "11 s", "11 s", "1.00")
    own = find_row(table, "distilled on the teacher's own texts, mini", "imdb")
    assert own[2:7] == ("nothing", "30 s", "11 s", "41 s", "3.73")
    assert own[7] == "30 ± 2 h + 2 h" and "2 cores, x86_64" in table.note


def test_what_is_missing_is_said(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(root, own)
    shutil.rmtree(own / "students" / "imdb" / "self-1")
    for approach in ("direct-0", "direct-1", "direct-2"):
        shutil.rmtree(own / "students" / "ag_news" / approach)
    (own / "evaluations" / "imdb" / "texts-0.json").unlink()
    (own / "evaluations" / "imdb" / "teacher.json").unlink()
    (own / "evaluations" / "imdb" / "noise.json").write_text("[1]")
    (own / "students" / "imdb" / "texts-1" / "training.json").write_text("{")
    other = own / "students" / "imdb" / "texts-2" / "training.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"held_out": {"rows": "many"}}))
    said = "\n".join(gather(own).faults)
    for part in (
        "imdb: 2 of 3 seeds of “distilled on the teacher's own texts, mini”",
        "ag_news: no student of “direct training on labelled texts, mini”",
        "texts-0 was not measured on labelled texts",
        "imdb: the teacher itself was not measured",
        "noise.json is no evaluation",
        "texts-2/training.json does not say what a report needs",
        "texts-1 is no student: training.json is missing or damaged",
        "the cache cdcdcdcdcdcd of",
    ):
        assert part in said
    shutil.rmtree(own / "students" / "ag_news")
    shutil.rmtree(own / "students" / "imdb" / "projection-0")
    assert "imdb: 2 of 3 seeds" in "\n".join(gather(own).faults)


def test_evaluations_are_found_by_place_where_they_name_no_student(
    root: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(root, own)
    for path in (own / "evaluations").rglob("*.json"):
        data = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in data.items() if k not in ("model", "task")}))
    found = gather(own)
    assert all(run.score("accuracy") is not None for run in found.runs)
    assert set(found.teachers) == {"ag_news", "imdb"}


def test_a_real_student_is_shown(student: Path, tmp_path: Path) -> None:
    found = collect([student.parent], [], tmp_path, None)
    files = write_report(found, "One", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mood" in page and "was not measured on labelled texts" in page
    assert {path.suffix for path in files} == {".html", ".md", ".csv", ".png", ".svg"}
    (command,) = [format_student_command(run) for run in found.runs]
    assert command.startswith("pipeline student --task mood --arch mini --from ")


def test_a_report_is_one_page_the_same_each_time(root: Path, tmp_path: Path) -> None:
    found = gather(root)
    first = {p.name: p.read_bytes() for p in write_report(found, "Title", tmp_path / "a")}
    again = {p.name: p.read_bytes() for p in write_report(found, "Title", tmp_path / "b")}
    assert first == again
    page = first["report.html"].decode()
    # Nothing is fetched: no script, no link but to the page's own parts.
    assert "<script" not in page and "@import" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 20
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert used <= set(ids)
    rows = list(csv.reader(io.StringIO(first["accuracy.csv"].decode())))
    assert rows[0][0] == "approach" and len(rows) == 8
    assert first["report.md"].decode().startswith("# Title\n\n36 students of 2 tasks.")
    # An earlier report is replaced, anything else is not.
    write_report(found, "Other", tmp_path / "a")
    assert "Other" in (tmp_path / "a" / "report.md").read_text()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    with pytest.raises(ReportError, match="something else"):
        write_report(found, "Title", tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    nasty = "<b>&\"'|x"
    folder = write_student(tmp_path, "t", "projection", 0, 0.8)
    record = json.loads((folder / "training.json").read_text())
    record["task"]["name"] = nasty
    (folder / "training.json").write_text(json.dumps(record))
    found = gather(tmp_path, None)
    page = write_page(nasty, found, list_tables(found), {})
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page
    assert "\\|x" in list_tables(found)[0].to_markdown()
    assert write_report(found, nasty, tmp_path / "out")


def test_settings_tell_rows_of_one_approach_apart(tmp_path: Path) -> None:
    for seed, sampler in enumerate(("unigram", "vocabulary")):
        folder = write_student(tmp_path, "t", "projection", seed, 0.8)
        record = json.loads((folder / "training.json").read_text()) | {"sampler": sampler}
        (folder / "training.json").write_text(json.dumps(record))
    names = [group.name for group in gather(tmp_path, None).groups]
    assert len(names) == 2 and names[1].endswith("`vocabulary`")


def test_nothing_and_nonsense_are_refused(tmp_path: Path) -> None:
    (tmp_path / "students").mkdir()
    with pytest.raises(ReportError, match="nothing to report"):
        gather(tmp_path)
    write_student(tmp_path, "t", "projection", 0, 0.8)
    for text in ("[", "accuracy: 3", "source: x\naccuracy: [{approach: magic}]"):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(SettingError, match="not as it must be"):
            gather(tmp_path, tmp_path / "p.yaml")


@given(st.lists(st.none() | st.floats(0, 1), max_size=6))
def test_means_are_of_what_is_known(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    text = format_mean(values)
    assert (text == "–") == (not known)
    assert ("±" in text) == (len(known) > 1)
    if known:
        assert abs(float(text.split()[0].rstrip("%")) - 100 * sum(known) / len(known)) <= 0.051
