from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import Result, run_here

from stages.classify.classifier import Classifier
from stages.classify.loading import load_classifier


@pytest.fixture(scope="module")
def classifier(student: Path) -> Classifier:
    return load_classifier(student, "cpu")


def tag(student: Path, data: bytes | str, *options: str) -> tuple[Result, list[dict[str, Any]]]:
    data = data if isinstance(data, bytes) else data.encode()
    found = run_here("tag", "--model", student, *options, stdin=data)
    return found, [json.loads(line) for line in found.out.split("\n") if line]


class TestCommand:
    def test_lines_in_json_lines_out(self, student: Path) -> None:
        # Only the first line may begin with a byte order mark.
        lines = ("\ufeffGood film", "", "  ", "😀 great", "a\u2028b\r", "\ufeffa\tb\x00c", "{Bad")
        found, answers = tag(student, "\n".join(lines))
        assert found.code == 0
        texts = ["Good film", "😀 great", "a\u2028b", "\ufeffa\tb\x00c", "{Bad"]
        assert [answer["text"] for answer in answers] == texts
        assert "blank lines skipped: 2" in found.err
        assert "😀" in found.out
        assert "input: plain text (auto: by its first line)" in found.err
        assert (
            tag(student, b"caf\xe9")[1][0].items()
            >= {"text": "caf\ufffd", "invalid_utf8": 1}.items()
        )
        found, answers = tag(student, b"")
        assert (found.code, answers) == (0, [])

    def test_answers_keep_their_order_and_are_the_classifier_s(
        self, student: Path, classifier: Classifier
    ) -> None:
        texts = [" ".join(["Good", "Bad", "Poor"][k % 3 :] * (k % 5 + 1)) for k in range(40)]
        texts += [str(k) for k in range(1500)]
        _, answers = tag(student, "\n".join(texts), "--all")
        assert [answer["text"] for answer in answers] == texts
        for text, answer in zip(texts[:40], answers, strict=False):
            row = classifier.classify([text]).probabilities[0]
            best = int(row.argmax())
            assert answer["label"] == classifier.labels[best]
            assert answer["score"] == pytest.approx(row[best], abs=1e-5)
            scores = dict(zip(classifier.labels, row.tolist(), strict=True))
            assert answer["scores"] == pytest.approx(scores, abs=1e-5)

    def test_a_bad_line_is_answered_with_an_error_and_the_rest_goes_on(self, student: Path) -> None:
        data = b'{"text": "Good", "id": 10000000000000000000001, "more": [1, {"a": null}]}\n'
        data += b'{"text": "\xff", "k": "\xe9"}\n{"text": "Good", "who": "\\ud83d"}\n'
        named = {
            b"nonsense": "line 4: not JSON",
            b'{"text": "a"': "line 5: not JSON",
            b'["a"]': "line 6: got a JSON list",
            b'{"txt": "a"}': "line 7: no key 'text'; there are 'txt'",
            b'{"text": null}': "line 8: 'text' is NoneType",
            b'{"text": "a\\ud83d"}': "line 9: 'text' holds half a surrogate pair",
            b"[" * 100_000: "line 10: not JSON",
        }
        found, answers = tag(student, data + b"\n".join(named) + b'\n{"text": "Bad"}\n')
        assert found.code == 1
        assert "7 of 11 lines could not be read" in found.err
        assert (answers[0]["id"], answers[0]["more"]) == (10**22 + 1, [1, {"a": None}])
        assert (answers[1]["text"], answers[1]["invalid_utf8"]) == ("\ufffd", True)
        assert (answers[2]["label"] in ("bad", "good"), answers[2]["who"]) == (True, "\ud83d")
        for number, (answer, fault) in enumerate(
            zip(answers[3:10], named.values(), strict=True), 4
        ):
            assert answer["line"] == number and fault in answer["error"]
            assert "label" not in answer
        assert answers[10]["text"] == "Bad" and "error" not in answers[10]

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

    def test_a_very_long_line_is_cut_and_said_so(self, student: Path) -> None:
        found, answers = tag(student, "Good " * 20_000 + "\nGood\n")
        assert found.code == 0
        assert len(answers[0]["text"]) == 100_000
        assert answers[0]["cut"] is True
        assert "cut" not in answers[1]

    def test_a_threshold_is_said_and_an_empty_line_is_not_below_it(
        self, student: Path, tmp_path: Path
    ) -> None:
        texts = "Good\nBad film\n" + "Great " * 50
        plain = tag(student, texts, "--all")[1]
        middle = sorted(answer["score"] for answer in plain)[1]
        below = {"label": None, "below_threshold": True}
        wanted = [answer | (below if answer["score"] < middle else {}) for answer in plain]
        assert tag(student, texts, "--all", "--threshold", str(middle))[1] == wanted
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
