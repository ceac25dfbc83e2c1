"""What is measured on a GPU, in which order, and how long it should take on an H100."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = ("constant", "uniform")
OURS, COMPILED, CAREFUL, OBVIOUS = "ours", "ours compiled", "careful loop", "obvious loop"
PEAK, KERNELS = "peak", "kernels, uniform"
QUICK_SECONDS = 5.0
"""Predicted for any row of a tiny model."""


@dataclass(frozen=True)
class Row:
    """Something that is measured by itself.

    Attributes:
        part: One of :data:`PARTS`.
        name: What it is called in the table.
        seconds: Predicted, the start of its process included where it is a part's first.
        late: Whether it comes behind all parts, since it is the first that may be left out.
    """

    part: str
    name: str
    seconds: float
    late: bool = False

    @property
    def limit(self) -> float:
        """Seconds after which it is ended."""
        return 1.5 * self.seconds + 30


ROWS = (
    Row("correctness", "pytest", 100),
    Row("teacher", PEAK, 20),
    Row("teacher", f"{OURS}, constant", 35),
    Row("teacher", f"{OURS}, uniform", 28),
    Row("teacher", KERNELS, 10),
    Row("teacher", f"{CAREFUL}, constant", 14),
    Row("teacher", f"{CAREFUL}, uniform", 8),
    Row("teacher", f"{OBVIOUS}, constant", 8),
    Row("teacher", f"{OBVIOUS}, uniform", 12),
    Row("student", "roberta-large", 60),
    Row("student", "minilm", 20),
    Row("job", "mini to mini", 70),
    Row("teacher", f"{COMPILED}, constant", 110, late=True),
    Row("teacher", f"{COMPILED}, uniform", 30, late=True),
)
PARTS = tuple(dict.fromkeys(row.part for row in ROWS))

_MODEL = ("numpy", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "yaml")
_CACHE = (*_MODEL, "accelerate", "zarr", "numcodecs", "google_crc32c", "donfig", "packaging")
NEEDS = {
    "correctness": (*_CACHE, "click", "tqdm"),
    "teacher": _MODEL,
    "student": _CACHE,
    "job": (*_CACHE, "click", "tqdm"),
}
"""What each part imports; not what only other uses of the product do."""
OPTIONAL = {
    "pytest": "correctness is left out",
    "torchao": "quantised weights are not checked",
}
"""What can be done without, and what is then missing."""


def find_missing(names: Sequence[str]) -> list[str]:
    """Return which of some packages are not installed."""
    return [name for name in dict.fromkeys(names) if importlib.util.find_spec(name) is None]


def describe_missing(parts: Sequence[str]) -> str:
    """Return a sentence on the packages that parts need and that are not there, or nothing."""
    missing = find_missing([name for part in parts for name in NEEDS[part]])
    if not missing:
        return ""
    able = [part for part in PARTS if not find_missing(NEEDS[part])]
    hint = f"; only {' and '.join(able)} can do without (--only)" if able else ""
    return f"these packages are missing: {', '.join(missing)}{hint}"


def choose_rows(parts: Sequence[str], quick: bool) -> list[Row]:
    """Return the rows of some parts in the order in which they are measured."""
    chosen = [row for part in PARTS for row in ROWS if row.part == part and part in parts]
    return chosen if quick else sorted(chosen, key=lambda row: row.late)
