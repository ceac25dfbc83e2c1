"""Lines of a stream to tags: what each line holds, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.classify.classifier import Classifier
from stages.errors import TextDataError
from stages.texts import parse_json_row

KEYS = ("label", "score", "scores", "cut", "below_threshold")
"""What answers say; where a line has such a key, that one moves aside."""


@dataclass(frozen=True)
class Line:
    """One line of the input.

    Attributes:
        text: Its text, or None where it cannot be read.
        fields: What goes into the answer beside the tag.
        error: Why it cannot be read.
    """

    text: str | None
    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_line(raw: bytes, number: int, is_json: bool, text_column: str) -> Line:
    """Read one line, plain text or JSON.

    Args:
        raw: The line's bytes.
        number: Its number, from 1.
        is_json: Whether it is a JSON object; its text is under ``text_column``.
        text_column: That key.

    Returns:
        The line.  Bytes that are not UTF-8 become U+FFFD and are marked ``invalid_utf8``.
    """
    raw = raw.rstrip(b"\r\n")
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        marks: dict[str, Any] = {}
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
    lines: Sequence[Line], classifier: Classifier, every: bool, threshold: float | None = None
) -> Iterator[dict[str, Any]]:
    """Answer lines in their order.

    Args:
        lines: The lines.
        classifier: The student.
        every: Whether to give the scores of all labels.
        threshold: Least score of a tag; below it the label is None and ``below_threshold`` is set.

    Yields:
        The line's own keys and ``label``, ``score`` and ``scores``; a key of the line that has
        a name of :data:`KEYS` moves to ``input_<name>``.
    """
    texts = [line.text for line in lines if line.text is not None and line.text.strip()]
    answers = classifier.classify(texts) if texts else None
    at = 0
    for line in lines:
        kept = {f"input_{key}" if key in KEYS else key: value for key, value in line.fields.items()}
        if line.text is None:
            yield kept | {"error": line.error}
            continue
        if not line.text.strip() or answers is None:
            yield kept | {"label": None, "score": None}
            continue
        row = answers.probabilities[at]
        best = int(row.argmax())
        tag: dict[str, Any] = {"label": classifier.labels[best], "score": float(row[best])}
        if threshold is not None and tag["score"] < threshold:
            tag |= {"label": None, "below_threshold": True}
        if every:
            tag["scores"] = dict(zip(classifier.labels, map(float, row), strict=True))
        if answers.cut[at]:
            tag["cut"] = True
        at += 1
        yield kept | tag


def format_answer(answer: Mapping[str, Any]) -> bytes:
    """Write an answer as a JSON line without its end, in UTF-8 whatever the terminal's encoding."""
    try:
        return json.dumps(answer, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair came in as an escape and goes out as one
        return json.dumps(answer).encode("ascii")
