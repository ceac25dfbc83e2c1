"""Students as ordinary transformers directories.

The adapter is folded into an embedding table over the language model's vocabulary, so the result
is a stock sequence-classification model under the language model's tokenizer: text in,
probabilities out, no code of this project, safetensors alone.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from stages.student import Student

TOLERANCE = 1e-5
"""Largest difference in probability between a student and its export."""

RECORD = "training.json"
"""What the student was trained from and how; beside the weights, ignored by transformers."""

NEEDED = ("task", "start_id", "fingerprint", "held_out")
"""What is read of a record."""


def fold_student(student: Student, table: torch.Tensor) -> PreTrainedModel:
    """Return a stock model over token ids that computes what the student does on embeddings.

    Args:
        student: The trained student.
        table: The language model's embedding table, shape (V, d_T).

    Returns:
        A copy of the encoder, in float32 on the CPU, whose word embeddings are the table under
        the adapter.
    """
    encoder = copy.deepcopy(student.encoder).cpu().float().eval()
    weight = student.adapter.weight.detach().cpu().float()
    with torch.no_grad():
        folded = torch.cat([part.float() @ weight.T for part in torch.split(table.cpu(), 4096)])
    words = nn.Embedding.from_pretrained(folded, freeze=False)
    encoder.set_input_embeddings(words)
    encoder.config.vocab_size = len(folded)
    base = getattr(encoder, encoder.base_model_prefix)
    if hasattr(base.embeddings, "create_position_ids_from_inputs_embeds"):
        _count_positions_from_zero(encoder, base.embeddings)
    return encoder


def build_tokenizer(
    files: Mapping[str, bytes], start_id: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Return the language model's tokenizer as the student needs it.

    Args:
        files: The tokenizer's own files by name, among them ``tokenizer.json``.
        start_id: Id that every input begins with.
        max_length: Longest input in pieces, without the start token.

    Returns:
        The tokenizer: start token first and nothing else added, padded and cut on the right.

    Raises:
        ExportError: The language model's tokenizer has no fast form.
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
            model = fold_student(student, table)
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
    worst = 0.0
    for length in sorted({0, 1, min(7, max_length), max_length}):
        ids = torch.randint(len(table), (2, length), generator=generator)
        wanted = student(table[ids].to(device).float()).softmax(dim=1).cpu()
        inputs = torch.cat([torch.full((2, 1), start_id), ids], dim=1)
        plain = stock(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
        worst = max(worst, float((plain.softmax(dim=1) - wanted).abs().max()))
        if length == max_length:
            continue
        padded = torch.cat([inputs, torch.zeros(2, 1, dtype=torch.long)], dim=1)
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


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a student was trained from.

    Raises:
        ExportError: The directory is no student of this project.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder} is no student: {RECORD} is missing or damaged") from error
    lost = [key for key in NEEDED if not isinstance(record, dict) or key not in record]
    if lost:
        raise ExportError(f"{folder} is no student: {RECORD} does not say its {', '.join(lost)}")
    found: dict[str, Any] = record
    return found


def _count_positions_from_zero(encoder: PreTrainedModel, embeddings: Any) -> None:
    """Let RoBERTa-like encoders count positions from 0, whatever the padding token is.

    They count from ``pad_token_id + 1`` and skip that id.  Under the language model's vocabulary
    any id may be a word and the padding id may be large, so no id is skipped (-1) and the rows of
    the table that were never used go.
    """
    table: nn.Embedding = embeddings.position_embeddings
    used = table.weight.detach()[embeddings.padding_idx + 1 :].clone()
    embeddings.position_embeddings = nn.Embedding.from_pretrained(used, freeze=False)
    embeddings.padding_idx = -1
    encoder.config.pad_token_id = -1
    encoder.config.max_position_embeddings = len(used)
    for name in ("position_ids", "token_type_ids"):
        buffer = getattr(embeddings, name, None)
        if isinstance(buffer, torch.Tensor):
            setattr(embeddings, name, buffer[:, : len(used)])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_directory(path: Path) -> None:
    """Remove a directory tree if it is there."""
    shutil.rmtree(path, ignore_errors=True)
