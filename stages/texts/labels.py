"""Texts as tokens, and their labels as those of a task, which they may stand for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import LabelError, SettingError, Settings
from stages.reporter import Reporter
from stages.texts.reading import TextRow, read_label, read_rows
from stages.texts.rows import Row, describe_missing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedTexts:
    """Every text of a file."""

    lines: np.ndarray  # of the file that each text begins at, shape (N,), int64
    lengths: np.ndarray  # tokens of each text, shape (N,), int32
    tokens: np.ndarray  # padded with -1, shape (N, longest), int32


def encode_texts(
    rows: Sequence[TextRow],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    reporter: Reporter,
) -> EncodedTexts:
    """Turn at least one text into tokens; those longer than ``max_length`` keep their first."""
    ids, cut = list[list[int]](), 0
    for begin in range(0, len(rows), 1024):
        reporter.check_stop()
        texts = [row.text for row in rows[begin : begin + 1024]]
        # Nobody's text ends the input or begins another's: what looks like a control token is text.
        settings = {"add_special_tokens": False, "split_special_tokens": True}
        found = tokenizer(texts, **settings)["input_ids"]
        cut += sum(len(tokens) > max_length for tokens in found)
        ids += [tokens[:max_length] for tokens in found]
    if cut:
        reporter.say(f"{cut:,} of {len(ids):,} texts are cut at {max_length} tokens")
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int32)
    padded = np.full((len(ids), max(1, int(lengths.max()))), -1, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(ids)
    return EncodedTexts(np.array([row.line for row in rows]), lengths, padded)


def read_labelled_texts(
    path: Path,
    names: Sequence[str],
    text_column: str,
    label_column: str,
    label_map: str,
    reporter: Reporter,
) -> tuple[list[TextRow], np.ndarray]:
    """Read every text of a file, as :func:`read_texts` does, with its label.

    That is one of the names, or stands for it in ``label_map``, such as ``1=good,0=bad``.  Returns
    the rows, labels mapped, and each label's place among the names, shape (N,), int64.
    SettingError: ``label_map`` is no such text or maps to another label; LabelError: a text has no
    label or another one.
    """
    meant = _parse_label_map(label_map, names)
    rows, unknown, unused = [], dict[str, str](), set(meant)
    for row in read_rows(path, text_column, reporter):
        label = _need_label(row, label_column, path)
        unused.discard(label.strip())
        label = meant.get(label.strip(), label)
        if label not in names:
            unknown.setdefault(label, f"{row.unit} {row.number}")
        rows.append(TextRow(row.number, row.text or "", label))
    if unknown:
        raise _explain_unknown(path, unknown, names)
    if unused:
        reporter.warn(f"label map: {path} has no label {', '.join(map(repr, sorted(unused)))}")
    return rows, np.array([names.index(row.label or "") for row in rows])


def _parse_label_map(text: str, names: Sequence[str]) -> dict[str, str]:
    found = dict[str, str]()
    # A comma may also be part of a name.
    for part in re.split(r",(?=[^,]*=)", text) if text else ():
        ends = [k for k, sign in enumerate(part) if sign == "="]  # there may be some in a name
        splits = [(part[:k].strip(), part[k + 1 :].strip()) for k in ends]
        if not splits:
            fault = f"got {part!r}, must be LABEL=NAME, one or several with commas"
            example = f"1={names[-1]},0={names[0]}"
            raise SettingError(f"label map: {fault}", Settings(("label_map",), example))
        label, name = next((each for each in splits if each[1] in names), splits[-1])
        if name not in names:
            raise SettingError(f"label map: {name!r} is none of {_list(name, names)}")
        if found.setdefault(label, name) != name:
            raise SettingError(f"label map: {label!r} is both {found[label]} and {name}")
    return found


def _need_label(row: Row, column: str, path: Path) -> str:
    if (label := read_label(row, column, path)) is not None:
        return label
    fault = f"{column!r} holds nothing"
    if column not in row.fields:
        fault = describe_missing("key or column", column, list(row.fields))
    where = f"{path}, {row.unit} {row.number}"
    raise LabelError(f"{where}: the text has no label: {fault}", Settings(("label_column",)))


def _explain_unknown(path: Path, unknown: Mapping[str, str], names: Sequence[str]) -> LabelError:
    label, where = next(iter(unknown.items()))
    ordered = sorted(unknown, key=lambda text: (len(text) * text.isdigit(), text))
    near = {other: _find_nearest(other, names) for other in ordered[:8]}
    # Classes are mostly numbered in the order in which they are listed.
    left = (name for name in names if name not in near.values())
    pairs = [f"{other.strip()}={name or next(left, names[-1])}" for other, name in near.items()]
    fault = f"the label {label!r} is none of {_list(label, names)}"
    if others := ", ".join(map(repr, list(unknown)[1:6])):
        fault += f"; others like it are {others}"
    return LabelError(f"{path}, {where}: {fault}", Settings(("label_map",), ",".join(pairs)))


def _find_nearest(label: str, names: Sequence[str]) -> str | None:
    folded = {name.strip().casefold(): name for name in names}
    near = difflib.get_close_matches(label.strip().casefold(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


def _list(label: str, names: Sequence[str]) -> str:
    near = _find_nearest(label, names)
    return ", ".join(names) + (f" (did you mean {near!r}?)" if near else "")
