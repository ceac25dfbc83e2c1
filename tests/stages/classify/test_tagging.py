from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Result, run_here

from stages.classify.classifier import Classifier
from stages.classify.loading import load_classifier
from stages.classify.tagging import tag_rows
from stages.texts import Row, TextFile


@pytest.fixture(scope="module")
def classifier(student: Path) -> Classifier:
    return load_classifier(student, "cpu")


def tag(student: Path, data: bytes | str, *options: str) -> tuple[Result, list[dict[str, Any]]]:
    data = data if isinstance(data, bytes) else data.encode()
    found = run_here("tag", "--model", student, *options, stdin=data)
    return found, [json.loads(line) for line in found.out.split("\n") if line]


def read_line(raw: bytes, number: int, is_json: bool, text_column: str) -> Row:
    """Read a line that stands at this place of standard input."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n" * (number - 1) + raw)
        file.flush()
        rows = TextFile(Path(file.name), text_column, "jsonl" if is_json else "text")
        ((row,),) = rows.read_batches()
        return row


def make_rows(texts: list[str]) -> list[Row]:
    return [Row(number, text, {"text": text}) for number, text in enumerate(texts, start=1)]


class TestLines:
    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            (b"a film\n", "a film"),
            (b"a film\r\n", "a film"),
            (b"a film", "a film"),
            (b"a\tb\x00c\n", "a\tb\x00c"),
            ("a\u2028b\n".encode(), "a\u2028b"),
            (b'{"text": "x"}\n', '{"text": "x"}'),
        ],
    )
    def test_plain_lines_are_what_they_are(self, raw: bytes, text: str) -> None:
        line = read_line(raw, 1, False, "text")
        assert (line.text, line.fields, line.error) == (text, {"text": text}, None)

    def test_only_the_first_line_may_begin_with_a_byte_order_mark(self, student: Path) -> None:
        _, answers = tag(student, "\ufeffa\u2028b\n\ufeffa\n")
        assert [answer["text"] for answer in answers] == ["a\u2028b", "\ufeffa"]

    @pytest.mark.parametrize("is_json", [False, True])
    def test_bytes_that_are_no_utf_8_are_replaced_and_marked(self, is_json: bool) -> None:
        raw = b'{"text": "caf\xe9"}' if is_json else b"caf\xe9"
        line = read_line(raw, 3, is_json, "text")
        assert line.text == "caf\ufffd"
        assert (line.fields, line.invalid_utf8) == ({"text": "caf\ufffd"}, True)

    def test_a_json_line_keeps_its_keys(self) -> None:
        raw = '{"id": 10000000000000000000001, "body": "ü", "more": [1, {"a": null}]}'.encode()
        line = read_line(raw, 1, True, "body")
        assert line.text == "ü"
        assert line.fields == {"id": 10**22 + 1, "body": "ü", "more": [1, {"a": None}]}

    @pytest.mark.parametrize(
        ("raw", "named"),
        [
            (b"nonsense", "line 7: not JSON"),
            (b'{"text": "a"', "line 7: not JSON"),
            (b'["a"]', "line 7: got a JSON list"),
            (b'{"txt": "a"}', "line 7: no key 'text'; there are 'txt'"),
            (b'{"text": null}', "line 7: 'text' is NoneType"),
            (b'{"text": "a\\ud83d"}', "line 7: 'text' holds half a surrogate pair"),
            (b"[" * 100_000, "line 7: not JSON"),
        ],
    )
    def test_a_line_that_is_not_as_it_must_be_says_why(self, raw: bytes, named: str) -> None:
        line = read_line(raw, 7, True, "text")
        assert line.text is None
        assert line.fields == {"line": 7}
        assert named in str(line.error)


class TestTags:
    def test_answers_keep_their_order_and_are_the_classifier_s(
        self, classifier: Classifier
    ) -> None:
        texts = [" ".join(["Good", "Bad", "Poor", "Great"][k % 3 :] * (k % 5)) for k in range(40)]
        found = list(tag_rows(make_rows(texts), classifier, all_scores=True))
        assert [answer["text"] for answer in found] == texts
        for text, answer in zip(texts, found, strict=True):
            if not text:
                assert (answer["label"], answer["score"]) == (None, None)
                continue
            row = classifier.classify([text]).probabilities[0]
            best = int(row.argmax())
            assert answer["label"] == classifier.labels[best]
            assert answer["score"] == pytest.approx(row[best], abs=1e-5)
            assert answer["scores"] == pytest.approx(
                dict(zip(classifier.labels, row.tolist(), strict=True)), abs=1e-5
            )

    def test_keys_that_the_answer_needs_move_aside(self, classifier: Classifier) -> None:
        raw = b'{"text": "Good", "label": "x", "score": 1, "scores": [], "cut": 0, "id": 5, '
        raw += b'"below_threshold": 2}'
        (found,) = tag_rows([read_line(raw, 1, True, "text")], classifier, all_scores=False)
        label = found.pop("label")
        score = found.pop("score")
        assert label in classifier.labels
        assert 0.5 <= score <= 1.0
        assert found == {
            "text": "Good",
            "input_label": "x",
            "input_score": 1,
            "input_scores": [],
            "input_cut": 0,
            "input_below_threshold": 2,
            "id": 5,
        }

    def test_below_a_threshold_there_is_no_tag(self, classifier: Classifier) -> None:
        texts = ["Good", "", "Bad film", "Great " * 50]
        lines = make_rows(texts)
        plain = list(tag_rows(lines, classifier, all_scores=True))
        threshold = sorted(answer["score"] for answer in plain if answer["score"] is not None)[1]
        found = list(tag_rows(lines, classifier, all_scores=True, threshold=threshold))
        below = 0
        for answer, before in zip(found, plain, strict=True):
            if before["score"] is None or before["score"] >= threshold:
                assert answer == before
            else:
                assert answer == before | {"label": None, "below_threshold": True}
                below += 1
        assert below == 1

    def test_no_text_at_all(self, classifier: Classifier) -> None:
        assert list(tag_rows([], classifier, all_scores=True)) == []
        assert classifier.classify([]).probabilities.shape == (0, 2)

    def test_like_lengths_share_a_batch_and_nothing_is_mixed_up(
        self, classifier: Classifier
    ) -> None:
        texts = [f"{'Good Bad ' * (k % 7)}{k}" for k in range(150)]
        together = classifier.classify(texts)
        alone = [classifier.classify([text]) for text in texts]
        wanted = np.concatenate([answer.probabilities for answer in alone])
        np.testing.assert_allclose(together.probabilities, wanted, atol=1e-5, rtol=0)
        assert together.cut.tolist() == [bool(answer.cut[0]) for answer in alone]
        assert 0 < together.cut.sum() < 150


class TestCommand:
    def test_lines_in_json_lines_out(self, student: Path) -> None:
        found, answers = tag(student, "Good film\n\n  \n😀 great\nBad", "--all")
        assert found.code == 0
        assert [answer["text"] for answer in answers] == ["Good film", "😀 great", "Bad"]
        assert "blank lines skipped: 2" in found.err
        assert set(answers[0]["scores"]) == {"bad", "good"}
        assert "😀" in found.out
        assert "input: plain text (auto: by its first line)" in found.err

    def test_a_file_of_json_lines(self, student: Path, tmp_path: Path) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text('{"text": "Good", "id": 1}\n\n{"text": " ", "id": 2}\nx\n')
        found = run_here("tag", "--model", student, path)
        answers = [json.loads(line) for line in found.out.splitlines()]
        assert "1 of 3 lines could not be read" in found.err
        assert [answer.get("id") for answer in answers] == [1, 2, None]
        assert answers[1] == {"text": " ", "id": 2, "label": None, "score": None}
        assert answers[2]["line"] == 4
        assert "blank lines skipped: 1\n" in found.err
        assert "input: JSON lines" in found.err

    @pytest.mark.parametrize("prefix", ["\ufeff", "\n\n  ", "\ufeff \n"])
    def test_json_is_known_by_its_first_line_that_holds_something(
        self, prefix: str, student: Path
    ) -> None:
        found, answers = tag(student, prefix + '{"text": "Good", "id": 3}\n')
        assert found.code == 0
        assert answers[-1]["id"] == 3
        assert "input: JSON lines" in found.err

    def test_the_format_can_be_said(self, student: Path) -> None:
        found, answers = tag(student, "{braces} are text\n", "--format", "text")
        assert (found.code, answers[0]["text"]) == (0, "{braces} are text")
        found, answers = tag(student, "no json\n", "--format", "jsonl")
        assert found.code == 1
        assert "line 1: not JSON" in answers[0]["error"]

    def test_a_bad_line_is_answered_with_an_error_and_the_rest_goes_on(self, student: Path) -> None:
        data = b'{"text": "Good"}\n{"txt": 1}\nnonsense\n{"text": "\xff", "k": "\xe9"}\n'
        found, answers = tag(student, data + b'{"text": "Bad"}\n')
        assert found.code == 1
        assert "2 of 5 lines could not be read" in found.err
        assert ["error" in answer for answer in answers] == [False, True, True, False, False]
        assert [answer["line"] for answer in answers[1:3]] == [2, 3]
        assert answers[3]["invalid_utf8"] is True
        assert "label" not in answers[1]

    def test_a_very_long_line_is_cut_and_said_so(self, student: Path) -> None:
        found, answers = tag(student, "Good " * 20_000 + "\nGood\n")
        assert found.code == 0
        assert len(answers[0]["text"]) == 100_000
        assert answers[0]["cut"] is True
        assert "cut" not in answers[1]

    def test_half_a_surrogate_pair_anywhere_is_no_traceback(self, student: Path) -> None:
        data = b'{"text": "Good", "who": "\\ud83d"}\n{"text": "\\ud83d"}\n'
        found, answers = tag(student, data)
        assert found.code == 1
        assert answers[0]["label"] in ("bad", "good")
        assert answers[0]["who"] == "\ud83d"
        assert "surrogate" in answers[1]["error"]

    def test_many_lines_keep_their_order(self, student: Path) -> None:
        found, answers = tag(student, "".join(f"{k}\n" for k in range(1500)))
        assert found.code == 0
        assert [answer["text"] for answer in answers] == [str(k) for k in range(1500)]

    def test_no_line_is_no_answer(self, student: Path) -> None:
        found, answers = tag(student, b"")
        assert (found.code, answers) == (0, [])

    def test_a_threshold_is_said_and_an_empty_line_is_not_below_it(
        self, student: Path, tmp_path: Path
    ) -> None:
        data = '{"text": "Good", "below_threshold": 1}\n{"text": ""}\n'
        found, answers = tag(student, data, "--threshold", "1")
        assert found.code == 0
        assert "threshold: 1, of scores at the temperature" in found.err
        assert answers[0] == {
            "text": "Good",
            "input_below_threshold": 1,
            "label": None,
            "score": answers[0]["score"],
            "below_threshold": True,
        }
        assert 0.5 <= answers[0]["score"] < 1
        assert answers[1] == {"text": "", "label": None, "score": None}
        older = shutil.copytree(student, tmp_path / "older")
        (older / "training.json").unlink()
        found, answers = tag(older, "Good\n", "--threshold", "0")
        assert "no record of a temperature" in found.err
        assert answers[0]["label"] in ("bad", "good")

    @pytest.mark.parametrize(
        ("threshold", "named"),
        [
            ("1.5", "got 1.5, must be in [0, 1]"),
            ("-0.1", "got -0.1, must be in [0, 1]"),
            ("nan", "got nan, must be in [0, 1]"),
            ("high", "'high' is not a valid float"),
        ],
    )
    def test_a_threshold_out_of_range_is_named(
        self, threshold: str, named: str, student: Path
    ) -> None:
        found, answers = tag(student, "Good\n", "--threshold", threshold)
        assert (found.code, answers) == (2, [])
        assert named in found.err
