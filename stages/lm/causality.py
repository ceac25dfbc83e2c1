"""Whether a language model is causal, which is tried."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stages.errors import ModelError
from stages.loading import explained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS, TOKENS, EARLY = 2, 8, 4
"""Rows and tokens that are tried; the first of these are to keep their logits."""

MARGIN = 8
"""How many times rounding that reaches from row to row the change may be."""


@torch.inference_mode()
def check_causal(model: PreTrainedModel, folder: Path, quantise: str = "none") -> None:
    """Raise ModelError if later tokens change the logits of earlier ones, or it cannot be run.

    In most models nothing changes, not a bit, in any number format.  Where rows share a computation
    (experts, scales of quantised activations) its rounding does, and by about as much as other rows
    change a row, which later tokens cannot.
    """
    table = model.get_input_embeddings().weight
    drawn = torch.randint(len(table), (5, ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    first, later, *others = drawn
    later[1:], later[0, :EARLY], drawn[2:, 0] = first[1:], first[0, :EARLY], first[0]

    def run(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids.to(table.device), use_cache=False).logits
        return logits[0].float()

    fault = f"cannot run {type(model).__name__} of {folder}"
    if quantise != "none":  # some families reach into their layers for the weight itself
        fault = f"{type(model).__name__} cannot be run with {quantise} weights; leave quantise out"
    with explained(ModelError, fault):
        wanted = run(first)
        moved = (run(later) - wanted)[:EARLY].abs().max().item()
        # What is not finite is refused with the first row that is.
        if moved == 0 or not wanted.isfinite().all():
            return
        noise = max((run(ids) - wanted).abs().max().item() for ids in others)
    if not moved <= MARGIN * noise:
        masked = getattr(model.config, "is_decoder", None) is False
        why = " (its config.json does not say is_decoder)" if masked else ""
        raise ModelError(
            f"{folder} is no causal LM: in {type(model).__name__}{why} later tokens change the "
            f"logits of earlier ones, by up to {moved:.2g}, as in masked language models; give a "
            "decoder"
        )
