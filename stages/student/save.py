"""Students as ordinary transformers directories.

The adapter is folded into an embedding table over the language model's vocabulary, so the result
is a stock sequence-classification model under the language model's tokenizer: text in,
probabilities out, no code of this project, safetensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.errors import ExportError, Settings
from stages.records import RECORD, publish_directory
from stages.student.folding import compare_with_stock, fold_student
from stages.student.model import Student

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOLERANCE = 1e-5
"""Largest difference in probability between a student and its export."""


def check_place(out: Path) -> None:
    """Check that a student may be written to a place."""
    if out.exists() and not (out / RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(
            f"{out} is there and is no student; remove it, or choose another", Settings(("out",))
        )


def write_student(
    student: Student,
    table: torch.Tensor,
    tokenizer: PreTrainedTokenizerFast,
    record: Mapping[str, Any],
    card: str,
    out: Path,
) -> None:
    """Write a student's directory, whole or not at all, and check that it answers as the student.

    ``table`` is the language model's, shape (V, d_T).  The student is left in evaluation mode; an
    older one at ``out`` is replaced.
    """
    from transformers import AutoModelForSequenceClassification

    check_place(out)
    try:
        with publish_directory(out) as folder:
            model = fold_student(student, table, tokenizer.pad_token_id)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / RECORD).write_text(json.dumps(dict(record), indent=2) + "\n")
            (folder / "README.md").write_text(card, encoding="utf-8")
            stock = AutoModelForSequenceClassification.from_pretrained(
                str(folder), use_safetensors=True, trust_remote_code=False
            ).eval()
            longest = tokenizer.model_max_length - 1
            answers = compare_with_stock(student, table, stock, record["start_id"], longest)
            wanted, alone, padded = (logits.softmax(dim=1) for logits in answers)
            worst = float(torch.cat([alone - wanted, padded - wanted]).abs().max())
            if not worst <= TOLERANCE:
                raise ExportError(
                    f"the written student differs from the trained one by {worst:.2g} in "
                    f"probability, more than {TOLERANCE:g}; nothing was kept"
                )
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror or error}") from error
