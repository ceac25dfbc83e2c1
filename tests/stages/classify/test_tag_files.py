"""``pipeline tag`` on files of every format, and on what JSON can hold."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Result, run_here

from stages.classify import format_answer


def tag(student: Path, data: bytes | str, *options: object) -> tuple[Result, list[dict[str, Any]]]:
    data = data if isinstance(data, bytes) else data.encode()
    found = run_here("tag", "--model", student, *options, stdin=data)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return found, [json.loads(line, parse_constant=refuse) for line in found.out.splitlines()]


CSV = 'id,body,label\n1,"Good, very",x\n\n2,Bad,y\n'
FORMATS: dict[str, Callable[[], bytes]] = {
    "CSV": CSV.encode,
    "JSON lines": lambda: gzip.compress(
        b'{"id": "1", "body": "Good, very", "label": "x"}\n{"id": "2", "body": "Bad", "label": "y"}'
    ),
    "JSON": lambda: (
        b'[{"id": "1", "body": "Good, very", "label": "x"},\n'
        b' {"id": "2", "body": "Bad", "label": "y"}]'
    ),
}


class TestFormats:
    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("is_file", [True, False])
    def test_rows_keep_their_columns_whatever_the_format(
        self, kind: str, is_file: bool, student: Path, tmp_path: Path
    ) -> None:
        data = FORMATS[kind]()
        file = tmp_path / "rows"
        file.write_bytes(data)
        options = ["--text-column", "body", *([file] if is_file else [])]
        found, answers = tag(student, b"" if is_file else data, *options)
        assert found.code == 0
        assert [(a["id"], a["body"], a["input_label"]) for a in answers] == [
            ("1", "Good, very", "x"),
            ("2", "Bad", "y"),
        ]
        assert {a["label"] for a in answers} <= {"bad", "good"}
        assert f"input: {kind} (auto: by its first line)" in found.err
        assert ("blank lines skipped: 1" in found.err) == (kind == "CSV")

    def test_a_parquet_file_s_columns_become_json(self, student: Path, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {
            "text": ["Good", None, "Bad"],
            "share": [0.5, math.nan, math.inf],
            "day": pyarrow.array([0, 1, 2], pyarrow.date32()),
            "image": [b"\xff\x00", b"", None],
            "more": [{"error": 1}, None, {"error": 2}],
        }
        parquet.write_table(pyarrow.table(columns), tmp_path / "rows")
        found, answers = tag(student, b"", tmp_path / "rows")
        assert found.code == 1
        assert "1 of 3 rows could not be read" in found.err
        assert answers[0] == answers[0] | {
            "text": "Good",
            "share": 0.5,
            "day": "1970-01-01",
            "image": "/wA=",
            "more": {"error": 1},
        }
        assert answers[1] == {"row": 2, "error": "row 2: 'text' is NoneType, must be text"}
        assert answers[2]["share"] == "Infinity"

    def test_a_bad_row_of_a_table_is_an_error_and_the_rest_goes_on(self, student: Path) -> None:
        found, answers = tag(student, 'text,n\nGood,1\nBad\n"x,2\nGreat,"3\n4"\nPoor,5\n')
        assert found.code == 1
        assert "2 of 5 lines could not be read" in found.err
        assert [answer.get("text") for answer in answers] == ["Good", None, None, "Great", "Poor"]
        assert answers[1] == {"line": 3, "error": "line 3: 1 cells, the header has 2"}
        assert answers[3]["n"] == "3\n4"


class TestJson:
    def test_a_key_named_error_is_no_error(self, student: Path) -> None:
        found, answers = tag(student, '{"text": "Good", "error": "x", "invalid_utf8": 0}\n')
        assert found.code == 0
        assert answers[0]["input_error"] == "x"
        assert answers[0]["input_invalid_utf8"] == 0
        assert not {"error", "invalid_utf8"} & set(answers[0])
        found, answers = tag(student, b'{"text": "\xff", "invalid_utf8": 0}\n')
        assert (answers[0]["invalid_utf8"], answers[0]["input_invalid_utf8"]) == (True, 0)

    @pytest.mark.parametrize("number", ["NaN", "-Infinity"])
    def test_a_number_that_json_cannot_hold_comes_out_as_it_was_written(
        self, number: str, student: Path
    ) -> None:
        found, answers = tag(
            student, f'{{"text": "Good", "n": {number}, "m": [{{"k": {number}}}]}}'
        )
        assert found.code == 0, found.err
        assert answers[0]["n"] == number
        assert answers[0]["m"] == [{"k": number}]
        found, answers = tag(student, f'{{"text": {number}}}')
        assert found.code == 1
        assert "'text' is " in answers[0]["error"]

    def test_no_field_is_lost_where_names_meet(self, student: Path) -> None:
        rows = [
            {"text": "Good", "label": 1, "input_label": 2, "input_input_label": 3},
            {"text": "Good", "input_label": 2, "label": 1},
            {"text": "Good", "input_label": 2},
        ]
        found, answers = tag(student, "".join(json.dumps(row) + "\n" for row in rows))
        assert found.code == 0
        for row, answer in zip(rows, answers, strict=True):
            own = {key: value for key, value in answer.items() if key not in ("label", "score")}
            assert sorted(map(str, own.values())) == sorted(map(str, row.values()))
            assert own.items() >= {k: v for k, v in row.items() if k != "label"}.items()
        raw = {"text": "Good", "label": [1, {"a": None}], "score": 1, "scores": [], "cut": 0}
        (answer,) = tag(student, json.dumps(raw | {"below_threshold": 2}))[1]
        assert answer.pop("label") in ("bad", "good") and 0.5 <= answer.pop("score") <= 1
        moved = {"input_label": [1, {"a": None}], "input_score": 1, "input_scores": []}
        moved |= {"input_cut": 0, "input_below_threshold": 2}
        assert answer == {"text": "Good"} | moved

    @pytest.mark.parametrize(
        "data", ['{"text": "a", "id": 1, "id": 2}', '{"text": "a", "m": {"k": 1, "k": 1}}']
    )
    def test_a_key_that_is_there_twice_is_an_error(self, data: str, student: Path) -> None:
        found, answers = tag(student, data + '\n{"text": "Good"}\n')
        assert found.code == 1
        assert "is there twice" in answers[0]["error"]
        assert answers[1]["text"] == "Good"

    def test_a_score_that_is_no_number_is_still_json(self) -> None:
        answer = json.loads(
            format_answer({"text": "a", "score": math.nan, "scores": {"x": -math.inf}})
        )
        assert answer == {"text": "a", "score": "NaN", "scores": {"x": "-Infinity"}}
