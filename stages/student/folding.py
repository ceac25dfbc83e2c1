"""Students as ordinary transformers directories, and the proof that they answer alike.

The adapter is folded into an embedding table over the language model's vocabulary: a stock
sequence-classification model under its tokenizer, no code of this project, safetensors alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.checkpoints import explained
from stages.classify.torch_classifier import list_position_layers
from stages.errors import ExportError, ModelError, Settings
from stages.records import RECORD, publish_directory
from stages.student.model import Student

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIALS = tuple(f"{name}_token_id" for name in ("bos", "eos", "cls", "sep", "mask"))
"""What a configuration calls the ids of its own vocabulary."""

MADE_UP_ROWS = 1000
"""Rows of the made-up embedding table that an untrained student is tried with."""

NOISE = 1e-3
"""Largest difference of an untrained student's logits, in parts of what inputs change in them."""

TOLERANCE = 1e-5
"""Largest difference in probability between a student and its export."""


@torch.no_grad()
def fold_student(student: Student, table: torch.Tensor, pad_id: int) -> PreTrainedModel:
    """Return a stock model over token ids that computes what the student does on embeddings.

    It is a copy of the encoder, in float32 on the CPU, whose word embeddings are the language
    model's table, shape (V, d_T), under the adapter.
    """
    encoder = copy.deepcopy(student.encoder).cpu().float().eval()
    adapter = copy.deepcopy(student.adapter).cpu().float()
    folded = torch.cat([adapter(part.float()) for part in torch.split(table.cpu(), 4096)])
    encoder.config.pad_token_id = pad_id
    number_from_zero(encoder)
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(folded, freeze=False))
    encoder.config.vocab_size = len(folded)
    for name in SPECIALS:
        # No head of these reads them, but transformers warns of ids that are none.
        if (getattr(encoder.config, name, None) or 0) >= len(folded):
            setattr(encoder.config, name, pad_id)
    return encoder


def number_from_zero(encoder: PreTrainedModel) -> None:
    """Let an encoder count positions from 0 and skip no id, if it counts as RoBERTa does.

    RoBERTa and its kin count from ``padding id + 1`` and do not count that id, wherever it stands.
    Under the language model's vocabulary any id may be a token.  The rows of the position table
    that were never used go.
    """
    for embeddings in list_position_layers(encoder):
        used = embeddings.position_embeddings.weight.detach()[embeddings.padding_idx + 1 :].clone()
        embeddings.position_embeddings = nn.Embedding.from_pretrained(used, freeze=False)
        embeddings.padding_idx = -1
        for name in ("position_ids", "token_type_ids"):
            buffer = getattr(embeddings, name, None)
            if isinstance(buffer, torch.Tensor):
                setattr(embeddings, name, buffer[:, : len(used)])
        # No id is -1, so none is skipped.
        encoder.config.pad_token_id = -1
        encoder.config.max_position_embeddings = len(used)


@torch.inference_mode()
def compare_with_stock(
    student: Student, table: torch.Tensor, stock: PreTrainedModel, start_id: int, max_length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ask a student and what was folded from it about random ids of several lengths.

    Returns the logits of the student, of the stock model, and of that with padding behind the
    inputs where there is room for it, each of shape (N, K), on the CPU.
    """
    student.eval()
    generator = torch.Generator().manual_seed(0)
    pad_id, answers = len(table) - 1, []
    # The longest first: some choose their way by the first input's length, and keep to it.
    for length in sorted({0, 1, min(9, max_length), max_length}, reverse=True):
        ids = torch.randint(len(table), (2, length), generator=generator)
        logits = student(table[ids].to(student.start)).cpu()
        given = torch.cat([torch.full((2, 1), start_id), ids], dim=1)
        plain = stock(input_ids=given, attention_mask=torch.ones_like(given)).logits
        room = min(3, max_length - length)
        longer = torch.cat([given, torch.full((2, room), pad_id)], dim=1)
        mask = (torch.arange(longer.shape[1]) <= length).long().expand(2, -1)
        behind = stock(input_ids=longer, attention_mask=mask).logits if room else plain
        answers.append((logits, plain, behind))
    wanted, alone, padded = (torch.cat(each) for each in zip(*answers, strict=True))
    return wanted, alone, padded


def check_foldable(student: Student, max_length: int) -> None:
    """Check that a student can be written, before hours of training go into it.

    A made-up table is folded into it, a stock model is made from the result's configuration and
    weights alone, and both answer some inputs, padded and unpadded; ModelError: not alike.
    """
    from transformers import AutoModelForSequenceClassification

    kind = student.encoder.config.model_type
    fault = (
        f"{kind} encoders cannot be students, an untrained one fails when it is tried on "
        "embeddings in place of tokens; use another encoder"
    )
    # The start of whatever is trained next must not depend on this.
    with (
        explained(ModelError, fault),
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(),
    ):
        start = student.start.cpu()
        noise = torch.randn(MADE_UP_ROWS, len(start), generator=torch.Generator().manual_seed(0))
        table = torch.cat([start[None], noise * (float(start.std(correction=0)) or 1.0)])
        folded = fold_student(student, table, pad_id=MADE_UP_ROWS)
        stock = AutoModelForSequenceClassification.from_config(
            folded.config, dtype=torch.float32
        ).eval()
        stock.load_state_dict(folded.state_dict())
        wanted, alone, padded = compare_with_stock(student, table, stock, 0, max_length)
    spread = float(wanted.std(dim=0).max())
    differences = {
        "they answer token ids otherwise than the ids' embeddings": alone - wanted,
        "padding behind an input changes their answer": padded - alone,
    }
    for fault, found in differences.items():
        difference = float(found.abs().max())
        if not difference <= NOISE * spread + 1e-6:
            raise ModelError(
                f"{kind} encoders cannot be students, {fault} (logits differ by {difference:.2g}, "
                f"inputs change them by {spread:.2g}); use another encoder"
            )


def check_place(out: Path) -> None:
    """Check that a student may be written to a place, which it is to replace as a whole."""
    if out.resolve() == Path.cwd():
        raise ExportError(f"{out} is the working directory; choose another", Settings(("out",)))
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
