"""One student of the study: how it is trained, and what it is measured on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gap.pools import Pool, embedder
from cache.draw import quantise_distribution
from stages.student import (
    OBJECTIVES,
    Objective,
    Student,
    TrainingConfig,
    choose_rates,
    configure_encoder,
    group_parameters,
    scale_rate,
)

STEP_ROWS, SLICE = 64, 16


@dataclass(frozen=True)
class Variant:
    """One student.

    Attributes:
        task: A bundled task.
        inputs: Kinds of inputs and their shares of the slices, such as ``vocabulary=0.5,self=0.5``.
        lengths: ``log-uniform``, ``uniform``, or a number, of inputs that have no own length.
        rows: Rows that the teacher answered, of each kind.
        steps: Steps of 64 rows.
        objective: One of the product's, or ``logits``: squared distance of centred logits.
        temperature: What the cached logits are divided by; the student's are, too.
        balance: Whether rows are drawn so that every class has as much of the cached probability.
        active: Whether the second half of the steps draws rows by the student's divergence in
            the middle of the training.
        average: Decay of the weights' moving average; 0: none.
        width: Of the encoder.
        depth: Its layers.
        seed: Of the start and the order.
    """

    task: str
    inputs: str
    lengths: str = "log-uniform"
    rows: int = 32768
    steps: int = 500
    objective: str = "kl"
    temperature: float = 1.0
    balance: bool = False
    active: bool = False
    average: float = 0.0
    width: int = 128
    depth: int = 3
    seed: int = 0

    @property
    def mixture(self) -> list[tuple[str, float]]:
        """Kinds and shares."""
        parts = [part.partition("=") for part in self.inputs.split(",")]
        return [(name, float(share or 1)) for name, _, share in parts]

    @property
    def file(self) -> str:
        """Its file's name."""
        text = "-".join(str(value) for value in vars(self).values())
        return "".join(c if c.isalnum() or c in ".-" else "_" for c in text) + ".json"


class Rows:
    """A pool that slices of rows are drawn from."""

    def __init__(self, pool: Pool, kind: str, table: torch.Tensor) -> None:
        self.pool, self.table = pool, table
        self.embed = None if pool.ids is not None else embedder(kind, table)

    def read(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return embeddings, the mask where rows are padded, and the teacher's logits."""
        lengths = self.pool.lengths[rows]
        longest = int(lengths.max())
        logits = torch.from_numpy(self.pool.logits[rows])
        if self.embed is not None:
            return self.embed(self.pool.seeds[rows], longest), None, logits
        assert self.pool.ids is not None
        ids = torch.from_numpy(self.pool.ids[rows, :longest].astype(np.int64))
        mask = (ids >= 0).long() if int(lengths.min()) < longest else None
        return self.table[ids.clamp(min=0)], mask, logits

    def stream(self, weights: np.ndarray | None, random: np.random.Generator) -> Iterator[Any]:
        """Yield slices of rows of like length without end; each row once an epoch, or by weight."""
        count = len(self.pool.lengths)
        while True:
            chosen = np.arange(count)
            if weights is not None:
                thresholds = quantise_distribution(weights / weights.sum())
                words = random.integers(0, 2**32, count)
                chosen = np.searchsorted(thresholds, words, side="right")
            # A random order among rows of one length, or the same rows would share every slice.
            chosen = random.permutation(chosen)
            chosen = chosen[np.argsort(self.pool.lengths[chosen], kind="stable")]
            slices = [chosen[i : i + SLICE] for i in range(0, count - SLICE + 1, SLICE)]
            for index in random.permutation(len(slices)):
                yield self.read(slices[index])


def run_variant(
    variant: Variant,
    open_pool: Callable[[str, str, int], Pool],
    held_out: dict[str, tuple[str, Pool]],
    table: torch.Tensor,
    start_id: int,
    labels: tuple[str, ...],
    max_length: int,
) -> dict[str, Any]:
    """Train one student and measure it.

    Args:
        variant: What is changed.
        open_pool: Gives the pool of a kind, a rule for lengths and a number of rows.
        held_out: What it is measured on, by name: kind and pool.
        table: The teacher's embeddings, shape (V, d_T).
        start_id: Token in front of every input.
        labels: The classes.
        max_length: Longest input.

    Returns:
        For each pool agreement with the teacher, and accuracy and macro-F1 where there are labels;
        seconds of the training.
    """
    torch.manual_seed(variant.seed)
    student = build_student(variant, table, start_id, labels, max_length)
    rates = choose_rates(None, "random", student)
    training = TrainingConfig(
        steps=variant.steps, learning_rate=rates.rate, encoder_share=rates.encoder_share
    )
    objective = Objective(variant.objective if variant.objective in OBJECTIVES else "kl")
    optimizer = torch.optim.AdamW(group_parameters(student, objective, training), betas=(0.9, 0.98))
    random = np.random.default_rng(variant.seed)
    mixture = variant.mixture
    sets = [
        Rows(open_pool(kind, variant.lengths, variant.rows), kind, table) for kind, _ in mixture
    ]
    shares = np.array([share for _, share in mixture])
    weights = [balance(rows.pool) if variant.balance else None for rows in sets]
    streams = [rows.stream(w, random) for rows, w in zip(sets, weights, strict=True)]
    mean: dict[str, torch.Tensor] = {}
    began = time.monotonic()
    student.train()
    for step in range(variant.steps):
        if variant.active and step == variant.steps // 2:
            weights = [divergence(student, rows) for rows in sets]
            streams = [rows.stream(w, random) for rows, w in zip(sets, weights, strict=True)]
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale_rate(step, training)
        for _ in range(STEP_ROWS // SLICE):
            rows = streams[random.choice(len(streams), p=shares / shares.sum())]
            embeddings, mask, logits = next(rows)
            given = student(embeddings, mask)
            loss = compute_loss(variant, objective, given, logits)
            (loss / (STEP_ROWS // SLICE)).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad()
        if variant.average:
            decay = min(variant.average, (step + 1) / (step + 10))
            for name, value in student.state_dict().items():
                mean[name] = torch.lerp(value, mean.get(name, value), decay)
    seconds = time.monotonic() - began
    if mean:
        student.load_state_dict(mean)
    found: dict[str, Any] = {"seconds": seconds}
    for name, (kind, pool) in held_out.items():
        found[name] = measure(student, Rows(pool, kind, table))
    return found


def build_student(
    variant: Variant, table: torch.Tensor, start_id: int, labels: tuple[str, ...], max_length: int
) -> Student:
    """Build the `mini` encoder of a width and depth."""
    from transformers import AutoModelForSequenceClassification

    config = configure_encoder("mini", "random", max_length)
    config.hidden_size, config.num_hidden_layers = variant.width, variant.depth
    config.intermediate_size, config.num_labels = 2 * variant.width, len(labels)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * variant.depth
    encoder = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return Student(encoder, table[start_id], float(table.float().std()))


def compute_loss(
    variant: Variant, objective: Objective, given: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Compare the student's logits with the teacher's."""
    if variant.objective == "logits":
        apart = given - logits
        return (apart - apart.mean(dim=1, keepdim=True)).square().mean()
    hot = variant.temperature
    # The gradient shrinks with the square of the temperature (Hinton et al., 2015).
    return hot**2 * objective((logits / hot).softmax(1), (given / hot).log_softmax(1))


def balance(pool: Pool) -> np.ndarray:
    """Weigh rows by their probabilities so that every class has the same share of them."""
    raised = np.exp(pool.logits - pool.logits.max(axis=1, keepdims=True))
    probabilities = raised / raised.sum(axis=1, keepdims=True)
    weights = np.ones(len(probabilities))
    for _ in range(100):  # one pass evens out a class and disturbs the others a little
        shares = (weights[:, None] * probabilities).sum(axis=0) / weights.sum()
        weights *= (probabilities / shares).mean(axis=1)
    return weights


@torch.no_grad()
def divergence(student: Student, rows: Rows) -> np.ndarray:
    """Return the divergence of the student from the teacher on every row, and a floor."""
    student.eval()
    found = np.empty(len(rows.pool.lengths))
    for part in split(rows.pool.lengths):
        embeddings, mask, logits = rows.read(part)
        g, log_h = logits.softmax(1), student(embeddings, mask).log_softmax(1)
        found[part] = (torch.special.xlogy(g, g) - g * log_h).sum(1)
    student.train()
    return np.maximum(found, 0) + found.mean() / 10


@torch.no_grad()
def measure(student: Student, rows: Rows) -> dict[str, float]:
    """Measure agreement with the teacher, and accuracy and macro-F1 where labels are known."""
    student.eval()
    given = np.empty(len(rows.pool.lengths), dtype=np.int64)
    for part in split(rows.pool.lengths):
        embeddings, mask, _ = rows.read(part)
        given[part] = student(embeddings, mask).argmax(1)
    theirs, gold = rows.pool.logits.argmax(axis=1), rows.pool.gold
    found = {"agreement": float((given == theirs).mean())}
    if (gold >= 0).all():
        found["accuracy"] = float((given == gold).mean())
        found["teacher"] = float((theirs == gold).mean())
    return found


def split(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows of like length, about 8,192 positions at a time."""
    order = np.argsort(lengths, kind="stable")
    while len(order):
        # The longest of those taken decides what the rows are padded to.
        size = max(
            1, int(np.searchsorted(np.arange(1, len(order) + 1) * (lengths[order] + 1), 8192))
        )
        yield order[:size]
        order = order[size:]
