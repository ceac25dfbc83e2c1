"""Scores of words that follow a row, by all their tokens over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.errors import ModelError
from stages.tasks import ROOT, Tree
from stages.teacher.branches import Branches
from stages.teacher.forward import ForwardPass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SLICE = 8192
"""Vocabulary rows whose logits are computed at once where the whole vocabulary's are needed."""
POSITIONS = 512
"""Positions for which they are."""


class WordScorer:
    """Scores words behind rows, each the sum of its tokens' logarithmic probabilities.

    The normaliser of a word's first token is left out: it is the same for all words of a question.
    Prepare it while the model has its whole output layer, ``head``.
    """

    def __init__(self, tree: Tree, model: PreTrainedModel, head: Any, table: torch.Tensor) -> None:
        self.branches = Branches.plant(tree, table) if tree.tokens else None
        if self.branches is None:
            return
        slots = {node: slot for slot, node in enumerate((ROOT, *tree.read_nodes))}
        reads = [
            torch.tensor([[slots[node], tree.columns.index(token), 1] for node, token in word])
            for word in tree.reads
        ]
        padded = nn.utils.rnn.pad_sequence(reads, batch_first=True).to(table.device)
        self._slots, self._columns, self._there = padded.unbind(-1)
        self._divided = self._there.clone()
        self._divided[:, 0] = 0
        self._later = self._slots[self._divided > 0].unique()
        if len(self._later):
            self._head, self._finish = head, find_finish(model, table)

    def score(self, way: ForwardPass, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the words' scores, shape (all B, words), float32, behind inputs.

        The inputs are as for :meth:`ForwardPass.run`, whose model has the tree's columns only.
        """
        if self.branches is None:
            return way.run(inputs)
        logits, states = (x.to(self._slots.device) for x in way.run_branches(inputs, self.branches))
        totals = logits.new_zeros(logits.shape[:2], dtype=torch.float32)
        if len(self._later):
            later = states[:, self._later]
            totals[:, self._later] = self._sum_vocabulary(later.flatten(0, 1)).view(later.shape[:2])
        scores = (logits.float()[:, self._slots, self._columns] * self._there).sum(-1)
        return scores - (totals[:, self._slots] * self._divided).sum(-1)

    def _sum_vocabulary(self, states: torch.Tensor) -> torch.Tensor:
        """Return log Σ exp of all tokens' logits, float32, shape (N,), behind states (N, d_T).

        Logits of positions × vocabulary are never held at once, but a part after the other.
        """
        weight, bias, device = self._head.weight.detach(), self._head.bias, states.device
        states = states.to(weight.device).float()
        total = torch.full(states.shape[:1], -torch.inf, device=weight.device)
        for begin in range(0, len(weight), SLICE):
            part = slice(begin, begin + SLICE)
            rows, own = weight[part].float(), None if bias is None else bias.detach()[part].float()
            for k in range(0, len(states), POSITIONS):
                some = slice(k, k + POSITIONS)
                logits = self._finish(nn.functional.linear(states[some], rows, own))
                total[some] = torch.logaddexp(total[some], logits.logsumexp(-1))
        return total.to(device)


def find_finish(
    model: PreTrainedModel, table: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Find what a family does to logits behind its output layer: nothing, a factor or a bound.

    ModelError: it does something else.
    """
    ramp = torch.linspace(-50, 50, 101, device=table.device)
    layer: Any = model.get_output_embeddings()
    hook = layer.register_forward_hook(lambda *_: ramp[None, None])
    try:
        found = model(inputs_embeds=table[None, :1], use_cache=False).logits.flatten().to(ramp)
    finally:
        hook.remove()
    factor = float(found[-1] / ramp[-1])
    bound = getattr(model.config.get_text_config(), "final_logit_softcapping", None) or 1.0
    for finish in (lambda x: x, lambda x: x * factor, lambda x: torch.tanh(x / bound) * bound):
        if torch.allclose(finish(ramp), found):
            return finish
    raise ModelError(
        f"what {type(model).__name__} does to its logits is not known, as whole words need it; "
        "set the task's word_score to first-token"
    )
