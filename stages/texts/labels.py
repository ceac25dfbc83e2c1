"""Files of labelled texts, whose labels are those of a task or stand for them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import LabelError, SettingError, Settings
from stages.texts.reading import TextRow, read_label, read_rows
from stages.texts.rows import Row, describe_missing

if TYPE_CHECKING:
    from stages.reporter import Reporter


def read_labelled_texts(
    path: Path,
    names: Sequence[str],
    text_column: str,
    label_column: str,
    label_map: str,
    reporter: Reporter,
) -> tuple[list[TextRow], np.ndarray]:
    """Read every text of a file with its label.

    Args:
        path: The file, as in :func:`read_texts`.
        names: The labels that there are.
        text_column: Key or column of the text.
        label_column: Key or column of the label.
        label_map: Which of the names other labels stand for, such as ``1=good,0=bad``; or empty.
        reporter: Is told what the file is.

    Returns:
        The rows in file order, with labels from the names, and each label's place among the names,
        shape (N,), int64.

    Raises:
        SettingError: ``label_map`` is no such text or maps to another label.
        TextDataError: The file cannot be read.
        LabelError: A text has no label or another one; the message names it, and what was
            probably meant.
    """
    meant = _parse_label_map(label_map, names)
    rows, unknown, used = [], {}, set()
    for row in read_rows(path, text_column, reporter):
        label = _need_label(row, label_column, path)
        if (stripped := label.strip()) in meant:
            used.add(stripped)
            label = meant[stripped]
        elif label not in names:
            unknown.setdefault(label, f"{row.unit} {row.number}")
        rows.append(TextRow(row.number, row.text or "", label))
    if unknown:
        raise _explain_unknown(path, unknown, names)
    if unused := [label for label in meant if label not in used]:
        reporter.warn(f"label map: {path} has no label {', '.join(map(repr, unused))}")
    columns = {name: column for column, name in enumerate(names)}
    return rows, np.array([columns[row.label or ""] for row in rows])


def _parse_label_map(text: str, names: Sequence[str]) -> dict[str, str]:
    found = {}
    # A comma may also be part of a name.
    for part in re.split(r",(?=[^,]*=)", text) if text else ():
        label, equals, name = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            raise SettingError(
                f"label map: got {part!r}, must be LABEL=NAME, one or several with commas",
                Settings(("label_map",), f"1={names[-1]},0={names[0]}"),
            )
        if name not in names:
            raise SettingError(f"label map: {name!r} is none of {_list(name, names)}")
        if found.setdefault(label, name) != name:
            raise SettingError(f"label map: {label!r} is both {found[label]} and {name}")
    return found


def _need_label(row: Row, column: str, path: Path) -> str:
    label = read_label(row, column, path)
    if label is not None:
        return label
    fault = describe_missing("key or column", column, list(row.fields))
    if column in row.fields:
        fault = f"{column!r} holds nothing"
    raise LabelError(
        f"{path}, {row.unit} {row.number}: the text has no label: {fault}",
        Settings(("label_column",)),
    )


def _explain_unknown(path: Path, unknown: Mapping[str, str], names: Sequence[str]) -> LabelError:
    label, where = next(iter(unknown.items()))
    others = [repr(other) for other in list(unknown)[1:6]]
    more = f"; others like it are {', '.join(others)}" if others else ""
    # Classes are mostly numbered in the order in which they are listed.
    near = {other: _find_nearest(other, names) for other in unknown}
    left = [name for name in names if name not in near.values()]
    pairs = [
        f"{other.strip()}={near[other] or (left.pop(0) if left else names[-1])}"
        for other in sorted(near, key=lambda text: (len(text) * text.isdigit(), text))[:8]
    ]
    return LabelError(
        f"{path}, {where}: the label {label!r} is none of {_list(label, names)}{more}",
        Settings(("label_map",), ",".join(pairs)),
    )


def _find_nearest(label: str, names: Sequence[str]) -> str | None:
    folded = {name.strip().casefold(): name for name in names}
    near = difflib.get_close_matches(label.strip().casefold(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


def _list(label: str, names: Sequence[str]) -> str:
    near = _find_nearest(label, names)
    return ", ".join(names) + (f" (did you mean {near!r}?)" if near else "")
