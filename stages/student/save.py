"""Students as ordinary transformers directories.

The adapter is folded into an embedding table over the language model's vocabulary, so the result
is a stock sequence-classification model under the language model's tokenizer: text in,
probabilities out, no code of this project, safetensors alone.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.errors import ExportError
from stages.records import RECORD
from stages.student.folding import find_remap, fold_student
from stages.student.token_ids import PADDING, TokenRemap, remap_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from stages.student.model import Student

TOLERANCE = 1e-5
"""Largest difference in probability between a student and its export."""


def build_tokenizer(
    files: Mapping[str, bytes], start_id: int, max_length: int, move: TokenRemap | None = None
) -> PreTrainedTokenizerFast:
    """Return the language model's tokenizer as the student needs it.

    Args:
        files: The tokenizer's own files by name, among them ``tokenizer.json``.
        start_id: Id that every input begins with.
        max_length: Longest input in tokens, without the start token.
        move: The id that the student's encoder has elsewhere, if there is one.

    Returns:
        The tokenizer: start token first and nothing else added, padded and cut on the right.

    Raises:
        ExportError: The language model's tokenizer has no fast form, or its ids cannot be moved.
    """
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    if "tokenizer.json" not in files:
        raise ExportError(
            "the language model's tokenizer has no tokenizer.json, which students are served with"
        )
    core = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
    start = core.id_to_token(start_id)
    if move is not None:
        core, start_id = remap_tokenizer(core, move), move.apply(start_id)
    core.post_processor = TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, start_id)]
    )
    core.no_padding()
    core.no_truncation()
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    specials = {
        name: token["content"] if isinstance(token, dict) else token
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (token := config.get(name))
    }
    if move is not None:
        specials["pad_token"] = PADDING
    # A language model seldom has a padding token; what stands under the mask is never read.
    specials.setdefault("pad_token", specials.get("eos_token") or start)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=max_length + 1,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **specials,
    )


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
        student: The trained student.
        table: The language model's embedding table, shape (V, d_T).
        tokenizer: From :func:`build_tokenizer`.
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
            check_export(student, table, folder, record["start_id"], tokenizer.model_max_length - 1)
            for file in folder.iterdir():
                _sync(file)
            if out.exists():
                out.rename(Path(temporary) / "replaced")
            folder.rename(out)
            _sync(out.parent)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror or error}") from error


@torch.inference_mode()
def check_export(
    student: Student, table: torch.Tensor, folder: Path, start_id: int, max_length: int
) -> float:
    """Compare a written student with the one in memory on random ids, padded and unpadded.

    Returns:
        The largest difference in probability.

    Raises:
        ExportError: It is larger than :data:`TOLERANCE`.
    """
    from transformers import AutoModelForSequenceClassification

    stock = AutoModelForSequenceClassification.from_pretrained(
        str(folder), use_safetensors=True, trust_remote_code=False
    ).eval()
    training = student.training
    student.eval()
    device = student.start.device
    generator = torch.Generator().manual_seed(0)
    move = find_remap(student.encoder, len(table))
    pad_id = 0 if move is None else move.source
    worst = 0.0
    for length in sorted({0, 1, min(7, max_length), max_length}):
        ids = torch.randint(len(table), (2, length), generator=generator)
        wanted = student(table[ids].to(device).float()).softmax(dim=1).cpu()
        inputs = torch.cat([torch.full((2, 1), start_id), ids], dim=1)
        inputs = inputs if move is None else move.apply(inputs)
        plain = stock(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
        worst = max(worst, float((plain.softmax(dim=1) - wanted).abs().max()))
        if length == max_length:
            continue
        padded = torch.cat([inputs, torch.full((2, 1), pad_id)], dim=1)
        mask = (torch.arange(length + 2) <= length).long().expand(2, -1)
        behind = stock(input_ids=padded, attention_mask=mask).logits
        worst = max(worst, float((behind.softmax(dim=1) - wanted).abs().max()))
    student.train(training)
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the written student differs from the trained one by {worst:.2g} in probability, "
            f"more than {TOLERANCE:g}; nothing was kept"
        )
    return worst


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
