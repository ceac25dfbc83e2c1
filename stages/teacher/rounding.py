"""What a number format costs, which a way to run a model is allowed to differ by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

LIMITS = {torch.float32: 300.0, torch.bfloat16: 1.0, torch.float16: 2.0}
"""How far the logits of two ways may lie apart, in what rounding costs.

In bfloat16 right ways lie below 0.8 and faults above 1.1; in float32 near 1 and above 10,000, where
the room is for kernels that add in another order.
"""
TURNS = {torch.float32: 1, torch.bfloat16: 6, torch.float16: 6}
"""How often a way is compared: what all turns have in common is no rounding."""

Run = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""Takes inputs, for each length of shape (B, T, d_T), returns logits, shape (all B, words)."""


class Rounding:
    """How logits move when every number of some inputs goes to one of its two neighbours.

    The step itself is small, but behind it every rounding falls anew.  It needs no memory, while a
    float32 copy of a large model does not fit beside it.  And it shows rounding on all devices: of
    another shape of the batch a processor's kernels may take no notice.
    """

    def __init__(self, run: Run, inputs: Sequence[torch.Tensor]) -> None:
        self._dtype = inputs[0].dtype
        turns = range(max(2, TURNS[self._dtype]))
        self._inputs = [[_move(part, turn) for part in inputs] for turn in turns]
        self._wanted = torch.stack([run(moved).float() for moved in self._inputs])
        cost = (self._wanted[1:] - self._wanted[0]).square().mean(dim=(0, 2)).sqrt()
        # A few draws may miss what a row costs, so it is no less than other rows'; and where no
        # rounding is seen at all it is the last bit of the logits.
        cost = torch.maximum(cost, cost.median())
        last = self._wanted[0].abs().amax(dim=1) * torch.finfo(torch.float32).eps
        self._cost = torch.maximum(cost, last).clamp(min=torch.finfo(torch.float32).tiny)

    def compare(self, run: Run) -> str:
        """Say by how much the logits of another way are off; empty where that is rounding."""
        apart = [
            run(self._inputs[turn]).float() - self._wanted[turn]
            for turn in range(TURNS[self._dtype])
        ]
        off = torch.stack(apart).mean(dim=0)
        times = off.square().mean(dim=1).sqrt() / self._cost
        ratio = float(times.square().mean().sqrt())
        if ratio <= LIMITS[self._dtype]:
            return ""
        cost = f"what rounding to {self._dtype} costs".replace("torch.", "")
        return f"logits are off by {float(off.abs().max()):.2g}, {ratio:,.2g} times {cost}"


def _move(part: torch.Tensor, turn: int) -> torch.Tensor:
    """Move every number to a neighbour, another one in every turn; in turn 0 to none."""
    if not turn:
        return part
    generator = torch.Generator().manual_seed(turn)
    signs = torch.randint(2, part.shape, generator=generator, dtype=torch.int8) * 2 - 1
    return part + part * (signs.to(part) * (torch.finfo(part.dtype).eps / 2))
