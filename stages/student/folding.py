"""A student's adapter folded into the embedding table of a stock encoder, and the proof of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from stages.errors import ModelError
from stages.loading import explained
from stages.student.model import Student
from stages.student.positions import find_reserved_id, number_from_zero
from stages.student.tokenizer import TokenRemap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPECIALS = tuple(f"{name}_token_id" for name in ("bos", "eos", "cls", "sep", "mask"))
"""What a configuration calls the ids of its own vocabulary."""

MADE_UP_ROWS = 1000
"""Rows of the made-up embedding table that an untrained student is tried with."""

NOISE = 1e-3
"""Largest difference of an untrained student's logits, in parts of what inputs change in them."""


def find_remap(encoder: PreTrainedModel, rows: int) -> TokenRemap | None:
    """Return which id an encoder has elsewhere than a language model of so many rows, or None."""
    reserved = find_reserved_id(encoder.config)
    return None if reserved is None else TokenRemap(reserved, rows)


@torch.no_grad()
def fold_student(student: Student, table: torch.Tensor, pad_id: int) -> PreTrainedModel:
    """Return a stock model over token ids that computes what the student does on embeddings.

    It is a copy of the encoder, in float32 on the CPU, whose word embeddings are the language
    model's table, shape (V, d_T), under the adapter, with the row moved that :func:`find_remap`
    says.
    """
    encoder = copy.deepcopy(student.encoder).cpu().float().eval()
    adapter = copy.deepcopy(student.adapter).cpu().float()
    folded = torch.cat([adapter(part.float()) for part in torch.split(table.cpu(), 4096)])
    remap = find_remap(encoder, len(folded))
    encoder.config.pad_token_id = pad_id
    if remap is None:
        number_from_zero(encoder)
    else:
        folded = torch.cat([folded, folded[remap.source][None]])
        folded[remap.source] = 0.0
        encoder.config.pad_token_id = remap.source
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(folded, freeze=False))
    encoder.config.vocab_size = len(folded)
    for name in SPECIALS:
        # No head of these reads them, but transformers warns of ids that are none.
        if (getattr(encoder.config, name, None) or 0) >= len(folded):
            setattr(encoder.config, name, pad_id)
    return encoder


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
    remap = find_remap(student.encoder, len(table))
    pad_id = len(table) - 1 if remap is None else remap.source
    answers = []
    # The longest first: some choose their way by the first input's length, and keep to it.
    for length in sorted({0, 1, min(9, max_length), max_length}, reverse=True):
        ids = torch.randint(len(table), (2, length), generator=generator)
        logits = student(table[ids].to(student.start)).cpu()
        given = torch.cat([torch.full((2, 1), start_id), ids], dim=1)
        given = remap.apply(given) if remap else given
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
    weights alone, and both answer some inputs, padded and unpadded.

    Raises:
        ModelError: The encoder cannot read embeddings, or answers token ids otherwise than their
            embeddings, or differently when padding stands behind an input.
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
