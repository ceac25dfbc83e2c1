"""Files of one student side by side: do they say the same, and how fast is each on one core."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from stages.classify import Classifier
    from stages.reporter import Reporter

ROUND = 64
"""Texts that one answers before the next one's turn: one batch."""

MOST_ROUNDS = 16

ENOUGH_SECONDS = 60.0
"""No further round begins after this; a large encoder answers a text a second."""


@dataclass(frozen=True)
class ComparedFile:
    """A file of a student, compared with the student in torch on the same texts.

    Attributes:
        file: Its path below the export's directory.
        bytes: Its size, with that of weights in a file of their own.
        agreement: Share of texts that both give the same label.
        largest_difference: In probability.
        rows: Texts.
        texts_per_second: Speed on one core, tokenizer included.
        original_texts_per_second: The student's, measured in turns with it.
    """

    file: str
    bytes: int
    agreement: float
    largest_difference: float
    rows: int
    texts_per_second: float
    original_texts_per_second: float


def draw_texts(tokenizer_file: Path, rows: int, longest: int) -> list[str]:
    """Draw texts of random tokens of a vocabulary.

    Args:
        tokenizer_file: A ``tokenizer.json``.
        rows: How many.
        longest: Most tokens that are drawn for a text; lengths are log-uniform from 1.  Read
            again, a text may have others, and a few more or less.

    Returns:
        The texts, the same ones each time.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    generator = np.random.default_rng(0)
    lengths = np.exp(generator.uniform(0, np.log(longest + 1), rows)).astype(int)
    size = tokenizer.get_vocab_size()
    return tokenizer.decode_batch(
        [generator.integers(size, size=length).tolist() for length in lengths]
    )


def compare(
    original: Classifier,
    folder: Path,
    others: Mapping[str, Classifier],
    texts: list[str],
    reporter: Reporter,
) -> list[ComparedFile]:
    """Compare files with the student on texts, in turns, until time or texts run out.

    Args:
        original: The student, on the CPU.
        folder: Where the files are.
        others: What was loaded from each, on one thread, by its path below the folder.
        texts: At least one.
        reporter: Asked between rounds whether to stop.
    """
    each = {"": original, **others}
    seconds = dict.fromkeys(each, 0.0)
    same = dict.fromkeys(others, 0)
    worst = dict.fromkeys(others, 0.0)
    rows = 0
    with _one_core():
        for classifier in each.values():
            classifier.classify(texts[:ROUND])  # the first pass allocates
        began = time.monotonic()
        for begin in range(0, len(texts), ROUND):
            reporter.check_stop()
            if rows and time.monotonic() - began > ENOUGH_SECONDS:
                break
            part = texts[begin : begin + ROUND]
            found = {}
            for name, classifier in each.items():
                start = time.perf_counter()
                found[name] = classifier.classify(part).probabilities
                seconds[name] += time.perf_counter() - start
            rows += len(part)
            for name in others:
                same[name] += int((found[name].argmax(1) == found[""].argmax(1)).sum())
                worst[name] = max(worst[name], float(np.abs(found[name] - found[""]).max()))
    return [
        ComparedFile(
            name,
            # Weights that do not fit into it have its name as well.
            sum(each.stat().st_size for each in (folder / name).parent.glob(f"{Path(name).name}*")),
            same[name] / rows,
            worst[name],
            rows,
            rows / seconds[name],
            rows / seconds[""],
        )
        for name in others
    ]


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep torch and the tokenizers to one thread each."""
    threads, name = torch.get_num_threads(), "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    torch.set_num_threads(1)
    os.environ[name] = "false"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
