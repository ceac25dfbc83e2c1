"""Rows of a file of texts to tags: what is answered."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stages.classify.classifier import Classifier
from stages.texts import Row, make_jsonable

KEYS = ("label", "score", "scores", "cut", "below_threshold", "invalid_utf8", "error")
"""Keys of an answer; a row's key of such a name is renamed."""


def tag_rows(
    rows: Sequence[Row],
    classifier: Classifier,
    all_scores: bool,
    threshold: float | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[dict[str, Any]]:
    """Answer rows in their order.

    An answer has the row's own keys and ``label``, ``score`` and, if ``all_scores``, ``scores``; a
    key of the row that is one of :data:`KEYS` gets as many ``input_`` in front as make it new.
    Where the score is below the threshold the label is None and ``below_threshold`` is set.
    ``advance`` is as for :meth:`Classifier.classify`.
    """
    texts = [row.text for row in rows if row.text and row.text.strip()]
    answers = classifier.classify(texts, advance)
    found = zip(answers.probabilities, answers.cut, strict=True)
    for row in rows:
        answer = _rename(row.fields)
        if row.invalid_utf8:
            answer["invalid_utf8"] = True
        if row.text is None:
            yield answer | {"error": row.error}
            continue
        if not row.text.strip():
            yield answer | {"label": None, "score": None}
            continue
        probabilities, cut = next(found)
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
        return _dump(answer, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair came in as an escape and goes out as one
        return _dump(answer, ensure_ascii=True).encode("ascii")


def _dump(answer: Mapping[str, Any], ensure_ascii: bool) -> str:
    try:
        return json.dumps(answer, ensure_ascii=ensure_ascii, allow_nan=False)
    except (ValueError, TypeError):  # a score that is no number, or a column of a date
        return json.dumps(make_jsonable(answer), ensure_ascii=ensure_ascii, allow_nan=False)


def _rename(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields without a name that an answer needs, none of them lost."""
    found = {}
    for name, value in fields.items():
        key = name
        while key in KEYS or (key != name and (key in fields or key in found)):
            key = f"input_{key}"
        found[key] = value
    return found
