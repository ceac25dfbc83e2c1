"""A student's adapter folded into the embedding table of a stock encoder, and the proof of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from stages.errors import ModelError
from stages.student.positions import number_from_zero, read_position_offset
from stages.student.token_ids import TokenRemap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stages.student.model import Student

SPECIALS = tuple(f"{name}_token_id" for name in ("bos", "eos", "cls", "sep", "mask"))
"""What a configuration calls the ids of its own vocabulary."""

TRIAL_ROWS = 1000
"""Rows of the made-up embedding table that an untrained student is tried with."""

NOISE = 1e-3
"""Largest difference of an untrained student's logits, in parts of what inputs change in them."""


def find_remap(encoder: PreTrainedModel, rows: int) -> TokenRemap | None:
    """Return which id an encoder's folded table has elsewhere than the language model, or None.

    Args:
        encoder: The student's encoder.
        rows: Rows of the language model's embedding table.
    """
    reserved = read_position_offset(encoder.config).reserved
    return None if reserved is None else TokenRemap(reserved, rows)


@torch.no_grad()
def fold_student(student: Student, table: torch.Tensor, pad_id: int) -> PreTrainedModel:
    """Return a stock model over token ids that computes what the student does on embeddings.

    Args:
        student: The trained student.
        table: The language model's embedding table, shape (V, d_T).
        pad_id: Id of the tokenizer's padding token, for the configuration.

    Returns:
        A copy of the encoder, in float32 on the CPU, whose word embeddings are the table under
        the adapter, with the row moved that :func:`find_remap` says.
    """
    encoder = copy.deepcopy(student.encoder).cpu().float().eval()
    adapter = copy.deepcopy(student.adapter).cpu().float()
    folded = torch.cat([adapter(part.float()) for part in torch.split(table.cpu(), 4096)])
    move = find_remap(encoder, len(folded))
    encoder.config.pad_token_id = pad_id
    if move is None:
        number_from_zero(encoder)
    else:
        folded = torch.cat([folded, folded[move.source][None]])
        folded[move.source] = 0.0
        encoder.config.pad_token_id = move.source
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(folded, freeze=False))
    encoder.config.vocab_size = len(folded)
    for name in SPECIALS:
        # No head of these reads them, but transformers warns of ids that are none.
        if (getattr(encoder.config, name, None) or 0) >= len(folded):
            setattr(encoder.config, name, pad_id)
    return encoder


def check_foldable(student: Student, max_length: int) -> None:
    """Check that a student can be written, before hours of training go into it.

    A made-up table is folded into it, a stock model is made from the result's configuration and
    weights alone, and both answer some inputs, padded and unpadded.

    Args:
        student: The untrained student.
        max_length: Longest input in tokens, without the start token.

    Raises:
        ModelError: The encoder cannot read embeddings, or answers token ids otherwise than their
            embeddings, or differently when padding stands behind an input.
    """
    kind = student.encoder.config.model_type
    training = student.training
    try:
        # The start of whatever is trained next must not depend on this trial.
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            apart, behind, spread = _try_student(student.eval(), max_length)
    except Exception as error:  # models raise whatever they met
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{kind} encoders cannot be students, an untrained one fails when it is tried on "
            f"embeddings in place of tokens; use another encoder: {reason}"
        ) from error
    finally:
        student.train(training)
    room = NOISE * spread + 1e-6
    if not apart <= room:
        raise ModelError(
            f"{kind} encoders cannot be students, they answer token ids otherwise than the ids' "
            f"embeddings (logits differ by {apart:.2g}, inputs change them by {spread:.2g}); use "
            "another encoder"
        )
    if not behind <= room:
        raise ModelError(
            f"{kind} encoders cannot be students, padding behind an input changes their answer "
            f"(logits differ by {behind:.2g}, inputs change them by {spread:.2g}); use another "
            "encoder"
        )


def _try_student(student: Student, max_length: int) -> tuple[float, float, float]:
    """Return how far ids and padding move the logits, and how far inputs do."""
    from transformers import AutoModelForSequenceClassification

    generator = torch.Generator().manual_seed(0)
    start = student.start.cpu()
    noise = torch.randn(TRIAL_ROWS, len(start), generator=generator)
    table = torch.cat([start[None], noise * (float(start.std(correction=0)) or 1.0)])
    folded = fold_student(student, table, pad_id=TRIAL_ROWS)
    move = find_remap(student.encoder, len(table))
    stock = AutoModelForSequenceClassification.from_config(folded.config, dtype=torch.float32)
    stock.load_state_dict(folded.state_dict())
    del folded
    stock.eval()
    pad = move.source if move else TRIAL_ROWS
    apart = behind = 0.0
    answers = []
    # The longest first: some choose their way by the first input's length, and keep to it.
    for length in sorted({0, 1, min(9, max_length), max_length}, reverse=True):
        ids = torch.arange(2 * length).view(2, length) % len(table)
        wanted = student(table[ids].to(student.start)).cpu()
        given = torch.cat([torch.zeros(2, 1, dtype=torch.long), ids], dim=1)
        given = move.apply(given) if move else given
        plain = stock(input_ids=given, attention_mask=torch.ones_like(given)).logits
        answers.append(wanted)
        apart = max(apart, _distance(plain, wanted))
        if length < max_length:
            room = min(3, max_length - length)
            padded = torch.cat([given, torch.full((2, room), pad)], dim=1)
            mask = (torch.arange(padded.shape[1]) <= length).long().expand(2, -1)
            logits = stock(input_ids=padded, attention_mask=mask).logits
            behind = max(behind, _distance(logits, plain))
    return apart, behind, float(torch.cat(answers).std(dim=0).max())


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())
