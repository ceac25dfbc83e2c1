"""Label words of several tokens, and several questions, behind rows that are run once.

Behind its row stands a tree of tokens (:mod:`stages.tasks.word_trie`).  A node sees the prompt, the
row, its ancestors and itself, as if nothing else were there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from stages.tasks import Tree

if TYPE_CHECKING:
    from transformers import PreTrainedModel


SCORES_AT_ONCE = 2**24
"""Scores within the trees behind rows that are held at once."""


@dataclass(frozen=True, eq=False)
class Branches:
    """The tree behind every row of a batch: M nodes, A of which are read."""

    embeddings: torch.Tensor  # of the nodes' tokens, (M, d_T)
    sees: torch.Tensor  # whether a node (first) is another's descendant or itself, (M, M), bool
    read: torch.Tensor  # nodes whose logits are read, rising, (A,)
    ways: tuple[tuple[int, ...], ...]  # to each of those: the nodes from the row to it

    @classmethod
    def plant(cls, tree: Tree, table: torch.Tensor) -> Branches:
        """Put a tree where the embeddings (V, d_T) of all tokens are."""
        ways, read = [tree.trace(node) for node in range(len(tree.tokens))], tree.read_nodes
        sees = torch.tensor([[k in way for k in range(len(ways))] for way in ways])
        tokens, asked = (torch.tensor(own, device=table.device) for own in (tree.tokens, read))
        return cls(table[tokens], sees.to(table.device), asked, tuple(ways[k] for k in read))

    def thin(self) -> Branches:
        """Return a tree with three of the nodes that are read: the first, the last, the deepest.

        On it a way to run a model is tried, which takes a forward pass for each such node.
        """
        ends = {self.ways[0], self.ways[-1], max(self.ways, key=len)}
        nodes = sorted({node for way in ends for node in way})
        ways = sorted((tuple(map(nodes.index, way)) for way in ends), key=lambda way: way[-1])
        read = torch.tensor([way[-1] for way in ways], device=self.read.device)
        return Branches(self.embeddings[nodes], self.sees[nodes][:, nodes], read, tuple(ways))

    def attend(
        self,
        attend: Callable[..., tuple[torch.Tensor, torch.Tensor]],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: Sequence[tuple[int, int]],
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Attend from the nodes behind rows, whose queries are given, to the row and in the tree.

        Keys and values, (1, H or fewer, N, D), are those of all rows and then of all nodes.
        Yields outputs (B, H, Q, D_v) and sums (B, H, Q) for some rows after the other, of all
        nodes or, in a layer cut down to them, of those that are read.
        """
        heads, nodes, count = query.shape[1], len(self.sees), sum(rows for rows, _ in groups)
        width = query.shape[2] // count
        sees = self.sees if width == nodes else self.sees[self.read]
        # So many rows at once that the scores within their trees stay few.
        most = max(1, SCORES_AT_ONCE // (heads * width * nodes))
        asked, seen, first = 0, 0, key.shape[2] - count * nodes
        for rows, length in groups:
            for begin in range(0, rows, most):
                some = min(most, rows - begin)
                part = cut_rows(query, asked, some, width)
                own = [repeat_heads(cut_rows(x, seen, some, length), heads) for x in (key, value)]
                tree = [repeat_heads(cut_rows(x, first, some, nodes), heads) for x in (key, value)]
                output, total = attend(part, *own, False)
                inside, inside_total = attend(part, *tree, False, sees=sees)
                share = torch.sigmoid(inside_total - total).unsqueeze(-1)
                merged = torch.lerp(output.float(), inside.float(), share).to(query.dtype)
                yield merged, torch.logaddexp(total, inside_total)
                asked += some * width
                seen += some * length
                first += some * nodes


@contextmanager
def keep_states(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Keep what the output layer is run on meanwhile, a tensor (B, T, d_T) for every run."""
    states: list[torch.Tensor] = []
    layer: Any = model.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    try:
        yield states
    finally:
        hook.remove()


def cut_rows(tensor: torch.Tensor, begin: int, count: int, length: int) -> torch.Tensor:
    """Turn positions of (1, H, N, D) into rows of one length, (count, H, length, D)."""
    part = tensor[0, :, begin : begin + count * length]
    return part.transpose(0, 1).reshape(count, length, *part.shape[::2]).transpose(1, 2)


def repeat_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat keys or values that several heads of queries share."""
    shared = heads // tensor.shape[1]
    return tensor if shared == 1 else tensor.repeat_interleave(shared, dim=1)
