"""Lines of a stream to tags: what each line holds, and what is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.classify.classifier import Classifier
from stages.errors import TextDataError
from stages.texts import parse_json_row

KEYS = ("label", "score", "scores", "cut", "below_threshold")
"""Keys of an answer; a line's key of such a name is renamed."""


@dataclass(frozen=True)
class Line:
    """One line of the input."""

    text: str | None  # None where it cannot be read
    fields: dict[str, Any] = field(default_factory=dict)  # what the answer holds besides the tag
    error: str | None = None  # why it cannot be read


def read_line(raw: bytes, number: int, is_json: bool, text_column: str) -> Line:
    """Read one line, by its number from 1: plain text, or a JSON object with ``text_column``.

    Bytes that are not UTF-8 become U+FFFD and are marked ``invalid_utf8``.
    """
    raw = raw.rstrip(b"\r\n")
    marks: dict[str, Any] = {}
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        text, marks = raw.decode("utf-8", errors="replace"), {"invalid_utf8": True}
    if not is_json:
        return Line(text, {"text": text, **marks})
    if not text.strip():
        return Line("", {text_column: "", **marks})
    try:
        row = parse_json_row(text, f"line {number}", number, text_column)
    except TextDataError as error:
        return Line(None, {"line": number}, str(error))
    return Line(row.text, {**json.loads(text), **marks})


def tag_lines(
    lines: Sequence[Line], classifier: Classifier, all_scores: bool, threshold: float | None = None
) -> Iterator[dict[str, Any]]:
    """Answer lines in their order.

    An answer has the line's own keys and ``label``, ``score`` and, if ``all_scores``, ``scores``;
    a key of the line that has a name of :data:`KEYS` becomes ``input_<name>``.  Where the score is
    below the threshold the label is None and ``below_threshold`` is set.
    """
    answers = classifier.classify([line.text for line in lines if line.text and line.text.strip()])
    rows = zip(answers.probabilities, answers.cut, strict=True)
    for line in lines:
        answer = {f"input_{key}" if key in KEYS else key: line.fields[key] for key in line.fields}
        if line.text is None:
            yield answer | {"error": line.error}
            continue
        if not line.text.strip():
            yield answer | {"label": None, "score": None}
            continue
        probabilities, cut = next(rows)
        best = int(probabilities.argmax())
        answer |= {"label": classifier.labels[best], "score": float(probabilities[best])}
        if threshold is not None and answer["score"] < threshold:
            answer |= {"label": None, "below_threshold": True}
        if all_scores:
            answer["scores"] = dict(zip(classifier.labels, map(float, probabilities), strict=True))
        if cut:
            answer["cut"] = True
        yield answer


def format_answer(answer: Mapping[str, Any]) -> bytes:
    """Write an answer as a JSON line without its end, in UTF-8 whatever the terminal's encoding."""
    try:
        return json.dumps(answer, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair came in as an escape and goes out as one
        return json.dumps(answer).encode("ascii")
