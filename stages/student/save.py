"""Students as ordinary transformers directories.

The adapter is folded into an embedding table over the language model's vocabulary, so the result
is a stock sequence-classification model under the language model's tokenizer: text in,
probabilities out, no code of this project, safetensors alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.errors import ExportError
from stages.records import RECORD, publish_directory
from stages.student.folding import compare_with_stock, fold_student

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from stages.student.model import Student

TOLERANCE = 1e-5
"""Largest difference in probability between a student and its export."""


def check_place(out: Path) -> None:
    """Check that a student may be written to a place.

    Raises:
        ExportError: Something else is there.
    """
    if out.exists() and not (out / RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is there and is no student; remove it or choose another --out")


def write_student(
    student: Student,
    table: torch.Tensor,
    tokenizer: PreTrainedTokenizerFast,
    record: Mapping[str, Any],
    card: str,
    out: Path,
) -> None:
    """Write a student's directory, whole or not at all, after checking that it is the student.

    Args:
        student: The trained student; left in evaluation mode.
        table: The language model's embedding table, shape (V, d_T).
        tokenizer: From :func:`stages.student.tokenizer.build_tokenizer`.
        record: What it was trained from and how.
        card: Text of the model card.
        out: Directory to write; an older student there is replaced.

    Raises:
        ExportError: The directory cannot be written, holds something else, or what was written
            does not give the student's probabilities.
    """
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "model"
            model = fold_student(student, table, tokenizer.pad_token_id)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / RECORD).write_text(json.dumps(dict(record), indent=2) + "\n")
            (folder / "README.md").write_text(card, encoding="utf-8")
            _check_export(
                student, table, folder, record["start_id"], tokenizer.model_max_length - 1
            )
            publish_directory(folder, out)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror or error}") from error


def _check_export(
    student: Student, table: torch.Tensor, folder: Path, start_id: int, max_length: int
) -> None:
    """Compare a written student with the one in memory on random ids, padded and unpadded."""
    from transformers import AutoModelForSequenceClassification

    stock = AutoModelForSequenceClassification.from_pretrained(
        str(folder), use_safetensors=True, trust_remote_code=False
    ).eval()
    answers = compare_with_stock(student, table, stock, start_id, max_length)
    wanted, alone, padded = (logits.softmax(dim=1) for logits in answers)
    worst = float(torch.cat([alone - wanted, padded - wanted]).abs().max())
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the written student differs from the trained one by {worst:.2g} in probability, "
            f"more than {TOLERANCE:g}; nothing was kept"
        )
