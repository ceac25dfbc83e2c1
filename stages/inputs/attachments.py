"""What a cache keeps besides its rows: the vocabulary, what `unigram` draws by, and texts.

Every read and every write of an attachment is here.  A student needs nothing else of the language
model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.directory import Cache
from cache.draw import Sampler
from stages.checkpoints import restrict_tokenizer
from stages.errors import ModelError
from stages.inputs.preparation import (
    LABELLED_SAMPLERS,
    build_samplers,
    is_written,
    mix_parts,
)
from stages.lm import Vocabulary, pack_tokenizer, unpack_tokenizer
from stages.metrics import CONTENT, Prior, Share, count_share

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TABLE = "embedding.safetensors"
THRESHOLDS = "thresholds.npy"
TOKENIZER = "tokenizer-"  # what the names of attachments with the tokenizer's files begin with
SELF_GENERATED_FILE = "own-texts.safetensors"
# Under which a manifest notes how many texts the model wrote for students to be measured on.
SELF_GENERATED = "own_texts"
ROWS_AT_ONCE = 64
SIGNIFICANT = 2.0  # standard deviations


@dataclass(frozen=True)
class SelfGenerated:
    """Texts that the teacher wrote, with its answers: for measuring a student without real ones.

    Made from seeds that no row has, they are no part of a cache's identity.
    """

    tokens: NDArray[np.int32]  # ids padded with -1, shape (N, T)
    lengths: NDArray[np.int32]  # tokens of each text, shape (N,)
    logits: NDArray[np.float32]  # the teacher's class logits, shape (N, K)
    # The column of the label that each was written for, shape (N,); None: for none.
    labels: NDArray[np.int64] | None = None

    @property
    def largest_class(self) -> float:
        """Share of the teacher's most frequent answer: what one answer to all texts would reach."""
        counts = np.bincount(self.logits.argmax(axis=1), minlength=self.logits.shape[1])
        return float(counts.max() / counts.sum())

    def without(self, prior: Prior | None) -> SelfGenerated:
        """Return the same texts with a prior taken off their answers."""
        if prior is None:
            return self
        return replace(self, logits=self.logits - np.array(prior.biases, dtype=np.float32))

    def count_named(self, prior: Prior | None) -> Share:
        """Count the texts whose label is named with a prior taken off; there must be labels."""
        given = self.without(prior).logits.argmax(axis=1)
        return count_share(int((given == self.labels).sum()), len(given))

    def knows_labels(self, prior: Prior | None) -> bool:
        """Whether labels are named more often than by guessing; there must be some."""
        chance: float = 1 / self.logits.shape[1]
        return self.count_named(prior).low > chance

    def speaks_against(self, prior: Prior) -> bool:
        """Whether with it taken off fewer texts are given the label that they were written for.

        It must be more than chance would do (McNemar's test).  Texts whose label is named no more
        often than by guessing say nothing.
        """
        if self.labels is None or not self.knows_labels(None):
            return False
        raw, off = (self.without(it).logits.argmax(axis=1) == self.labels for it in (None, prior))
        lost, gained = int((raw & ~off).sum()), int((off & ~raw).sum())
        return lost - gained > SIGNIFICANT * math.sqrt(lost + gained)

    def to_columns(self) -> dict[str, NDArray[Any]]:
        """Return the answers as columns of rows have them."""
        answers = torch.from_numpy(self.logits).softmax(1).numpy()
        return {"probabilities": answers, "seed": np.zeros(len(answers), dtype=np.uint64)}

    def to_files(self) -> dict[str, bytes]:
        """Return the attachment by its name."""
        from safetensors.numpy import save

        known = {name: array for name, array in vars(self).items() if array is not None}
        arrays = {name: np.ascontiguousarray(array) for name, array in known.items()}
        return {SELF_GENERATED_FILE: save(arrays)}

    def measure(self, answer: Callable[[NDArray[np.int64]], NDArray[np.floating]]) -> Share:
        """Count how often someone answers as the teacher did.

        ``answer`` takes token ids of rows of one length, (B, T), and returns class scores, (B, K).
        """
        expected, hits = self.logits.argmax(axis=1), 0
        for length in np.unique(self.lengths):
            alike = np.flatnonzero(self.lengths == length)
            for begin in range(0, len(alike), ROWS_AT_ONCE):
                rows = alike[begin : begin + ROWS_AT_ONCE]
                found = answer(self.tokens[rows, :length].astype(np.int64)).argmax(axis=1)
                hits += int((found == expected[rows]).sum())
        return count_share(hits, len(expected))


def pack_attachments(
    table: torch.Tensor, tokenizer: PreTrainedTokenizerBase, thresholds: np.ndarray | None
) -> dict[str, bytes]:
    """Collect what a student needs of the language model, as attachments by name.

    The embedding table has the shape (V, d_T).  The thresholds, which `unigram` draws by, (V,), are
    None where it draws nothing.
    """
    from safetensors.torch import save

    files = {TABLE: save({"embedding": table.cpu().contiguous()})}
    files |= {f"{TOKENIZER}{name}": data for name, data in pack_tokenizer(tokenizer).items()}
    if thresholds is not None:
        files[THRESHOLDS] = thresholds.astype("<i8").tobytes()
    return files


def read_table(cache: Cache) -> torch.Tensor:
    """Read the language model's embedding table, shape (V, d_T), from a cache."""
    from safetensors.torch import load

    table: torch.Tensor = load(cache.read_attachment(TABLE))["embedding"]
    return table


def read_vocabulary(cache: Cache) -> Vocabulary:
    """Read what a cache keeps of its language model.

    Raises:
        DamageError: A file of it is missing or changed.
    """
    inputs = cache.manifest.inputs
    files = {
        name.removeprefix(TOKENIZER): cache.read_attachment(name)
        for name in cache.manifest.attachments
        if name.startswith(TOKENIZER)
    }
    table, tokenizer = read_table(cache), unpack_tokenizer(files)
    # Older caches hold tokens beyond the table, if the model had any.
    restricted = restrict_tokenizer(tokenizer, len(table))
    if restricted is not tokenizer:
        files = pack_tokenizer(restricted)
    return Vocabulary(table, files, inputs["start_id"], inputs["task"])


def read_thresholds(cache: Cache) -> NDArray[np.int64] | None:
    """Read what ``unigram`` draws by, shape (V,); None where it draws nothing."""
    if THRESHOLDS not in cache.manifest.attachments:
        return None
    return np.frombuffer(cache.read_attachment(THRESHOLDS), dtype="<i8")


def read_samplers(cache: Cache, table: torch.Tensor) -> dict[str, Sampler]:
    """Rebuild a cache's samplers that draw rows from seeds, by name."""
    name = cache.manifest.inputs["sampler"]["name"]
    return build_samplers(name, table, read_thresholds(cache))


def read_sampler(cache: Cache, table: torch.Tensor) -> Sampler | None:
    """Rebuild the sampler that a cache's inputs came from; None where their tokens are kept."""
    if "tokens" in cache.layout.columns:
        return None
    return mix_parts(cache.manifest.inputs["sampler"]["name"], read_samplers(cache, table))


def read_self_generated(cache: Cache) -> SelfGenerated | None:
    """Read the self-generated texts of a cache; None where it has none.

    DamageError: they were changed since; ModelError: there are other arrays than texts have.
    """
    from safetensors.numpy import load

    if SELF_GENERATED_FILE not in cache.manifest.attachments:
        return None
    try:
        return SelfGenerated(**load(cache.read_attachment(SELF_GENERATED_FILE)))
    except TypeError as error:
        raise ModelError(
            f"{cache.place}: {SELF_GENERATED_FILE} holds other things than texts"
        ) from error


def find_objection(prior: Prior, sampler: str, texts: SelfGenerated | None) -> str:
    """Return why a prior of a sampler's rows is not to be taken off unasked; empty: it is.

    Rows tell it that ask nothing, or that were written for all labels alike, where the labels of
    self-generated texts show that they are about them.
    """
    if is_written(sampler, LABELLED_SAMPLERS) and texts is not None and texts.labels is not None:
        if not texts.knows_labels(prior):
            return "the teacher names the labels of its own texts no more often than by guessing"
    elif not prior.is_leaning:
        return f"the answers tell rows apart by {prior.content:.0%}, must be at most {CONTENT:.0%}"
    if texts is not None and texts.speaks_against(prior):
        return "without it the teacher names the label of fewer texts that it wrote for one"
    return ""


def describe_difference(cache: Cache, asked: int) -> str | None:
    """Say that a cache was created with another number of texts than is asked for now.

    None where the number is the same or not known.
    """
    unknown = None if SELF_GENERATED_FILE in cache.manifest.attachments else 0
    kept = cache.manifest.notes.get(SELF_GENERATED, unknown)
    if kept is None or kept == asked:
        return None
    return (
        f"self-generated texts: {kept or 'none'}, as this cache was created with, instead of "
        f"{asked:,}; only a new cache gets others"
    )


def describe_agreement(share: Share, largest_class: float) -> str:
    """Say what the agreement on self-generated texts is worth, beside one answer to all texts."""
    return (
        f"self-generated texts: on {share.rows:,} texts that the teacher wrote itself the student "
        f"agrees in {share}, where one answer to all would in {largest_class:.1%}: the estimate "
        "for real texts where there are none"
    )
