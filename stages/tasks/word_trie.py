"""A tree of the tokens that may follow a row: what is behind the row only once, is read only once.

The label words' trie is one use: a word of several tokens is read at the row's end and behind each
of its tokens but the last.  Several questions over one row are another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ROOT = -1
"""Stands for a row's end where a node is asked for."""


@dataclass(frozen=True)
class Question:
    """Words that may follow a row, each given by its tokens, and the tokens between it and them.

    A word's score is Σ log p of its tokens, but for the normaliser of its first: it is the same
    for all words of the question.
    """

    words: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    """Tokens behind a row, each in front of its children, and what is read of them."""

    tokens: tuple[int, ...]  # of each node
    parents: tuple[int, ...]  # of each node: an earlier one, or ROOT
    reads: tuple[tuple[tuple[int, int], ...], ...]  # a word's: for each token the node in front

    @property
    def read_nodes(self) -> tuple[int, ...]:
        """The nodes whose logits are read, rising; the row's end is none of them."""
        return tuple(sorted({node for word in self.reads for node, _ in word if node != ROOT}))

    @property
    def columns(self) -> tuple[int, ...]:
        """The vocabulary rows that are multiplied: each word's first token, then all others."""
        firsts = [word[0][1] for word in self.reads]
        others = dict.fromkeys(token for word in self.reads for _, token in word[1:])
        return (*firsts, *(token for token in others if token not in firsts))

    def trace(self, node: int) -> tuple[int, ...]:
        """Return the nodes from the row to a node, itself included."""
        way: list[int] = []
        while node != ROOT:
            way.append(node)
            node = self.parents[node]
        return tuple(reversed(way))


def grow_tree(questions: Sequence[Question]) -> Tree:
    """Put the questions and their words behind a row, what begins alike together.

    The words of the tree are those of all questions, in order.
    """
    nodes: dict[tuple[int, int], int] = {}

    def go(node: int, tokens: Sequence[int]) -> list[int]:
        """Return the nodes in front of each token, and the last of them."""
        way = [node]
        for token in tokens:
            node = nodes.setdefault((node, token), len(nodes))
            way.append(node)
        return way

    reads = []
    for question in questions:
        asked = go(ROOT, question.tokens)[-1]
        for word in question.words:
            reads.append(tuple(zip(go(asked, word[:-1]), word, strict=True)))
    return Tree(tuple(t for _, t in nodes), tuple(parent for parent, _ in nodes), tuple(reads))
