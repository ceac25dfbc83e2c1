"""Files of one student side by side: do they say the same, and how fast is each on one core."""

import itertools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.classify import Classifier
from stages.reporter import Reporter

ROUND = 64
"""Texts that one answers before the next one's turn: one batch."""

MOST_ROUNDS = 16

ENOUGH_SECONDS = 60.0
"""No further round begins after this; a large encoder answers a text a second."""


@dataclass(frozen=True)
class ComparedFile:
    """A file of a student, compared with the student in torch on the same random texts.

    Its path is one below the export's directory, its size includes weights in a file of their own,
    and speeds are on one core, tokenizer included.
    """

    file: str
    bytes: int
    agreement: float
    largest_difference: float
    rows: int
    texts_per_second: float
    original_texts_per_second: float


def draw_texts(tokenizer_file: Path, rows: int, longest: int) -> list[str]:
    """Draw texts of random tokens of a ``tokenizer.json``, the same ones each time.

    Lengths are log-uniform from 1; read again, a text may have other tokens, a few more or less.
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
    """Compare files with the student, on the CPU, in turns, until time or texts run out.

    ``others`` holds what was loaded from each file, on one thread, by its path below the folder.
    """
    each = {"": original, **others}
    seconds = dict.fromkeys(each, 0.0)
    answers: dict[str, list[np.ndarray]] = {name: [] for name in each}
    with _one_core(), reporter.track("comparing", 1, 0, "file"):

        def check(done: int) -> None:
            reporter.check_stop()

        for classifier in each.values():
            classifier.classify(texts[:ROUND], check)  # the first pass allocates
        began = time.monotonic()
        # The first one alone, without padding.
        ends = (0, 1, *range(ROUND, len(texts), ROUND), len(texts))
        for begin, end in itertools.pairwise(ends):
            if begin > 1 and time.monotonic() - began > ENOUGH_SECONDS:
                break
            for name, classifier in each.items():
                start = time.perf_counter()
                answers[name].append(classifier.classify(texts[begin:end], check).probabilities)
                seconds[name] += time.perf_counter() - start
    found = {name: np.concatenate(parts) for name, parts in answers.items()}
    rows = len(found[""])
    return [
        ComparedFile(
            name,
            # Weights that do not fit into it have its name as well.
            sum(part.stat().st_size for part in folder.glob(f"{name}*")),
            float((found[name].argmax(1) == found[""].argmax(1)).mean()),
            float(np.abs(found[name] - found[""]).max()),
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
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
