"""Model cards: what a student is, in the form that model hubs read.

Everything in a card is in the student's record; nothing that was not measured is claimed.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stages.metrics import count_share, read_share
from stages.student.architectures import ARCHITECTURES

TEMPLATE = Path(__file__).with_name("card.md.jinja")

MARKED = "\\`*_[]<>#~$&|"
"""Characters that Markdown, or the HTML in it, would take for its own."""

SCORES = (("accuracy", "accuracy", "accuracy"), ("f1", "macro-F1", "macro_f1"))
"""A metric's kind and name on hubs, and its key in an evaluation."""


def write_card(record: Mapping[str, Any], weights: bool = True) -> str:
    """Write a student's README.md, Markdown with a YAML head, from its record.

    Of that `calibration`, `exports` and `evaluations` may be absent; ``weights`` says whether those
    for transformers are there as well.
    """
    task, held_out = record["task"], record["held_out"]
    # Older records do not say it.
    gold = record.get("labels") == "gold"
    evaluations = [each for each in record.get("evaluations") or () if each.get("student")]
    words = [
        (_quote(each["name"]), [_quote(word) for word, _ in each["words"]])
        for each in task["labels"]
    ]
    rows = held_out["rows"]
    values = {
        **record,
        "agreement": count_share(round(held_out["agreement"] * rows), rows),
        "code": _quote,
        "data_name": _name_data,
        "escape": lambda text: "".join(f"\\{c}" if c in MARKED else c for c in _flatten(text)),
        "evaluations": evaluations,
        "gold": gold,
        "json": partial(json.dumps, ensure_ascii=False),
        "judge": "the labels" if gold else "the teacher",
        "label_words": "; ".join(f"{name} ({', '.join(each)})" for name, each in words),
        "labels": ", ".join(name for name, _ in words),
        "percent": "{:.1%}".format,
        "real": gold or record["sampler"] == "texts",
        # Where a task does not say it, it is as in the paper.
        "scores": f"{task.get('word_score', 'first-token')}, {task.get('label_score', 'max')}",
        "self_generated": read_share(record.get("self_generated")),
        "weights": weights,
    }
    known = ARCHITECTURES.get(record["arch"])
    model_name = _flatten(f"{task['name']}-{record['arch']}") if evaluations else None
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["text-classification", *([] if gold else ["distillation", "functional-projection"])],
        base_model=known.hub_id if known and record["init"] == "pretrained" else None,
        model_name=model_name,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type="text",
                dataset_name=_flatten(_name_data(found)),
                metric_type=kind,
                metric_name=name,
                metric_value=found["student"][key],
            )
            for found in evaluations
            for kind, name, key in SCORES
        ]
        or None,
    )
    card = ModelCard.from_template(head, template_path=str(TEMPLATE), **values)
    return f"{card}\n"


def _name_data(found: Mapping[str, Any]) -> str:
    """Return the name of the file that was measured on, not where it lay."""
    return str(found.get("data", "a file not named")).rsplit("/", 1)[-1]


def _quote(text: object) -> str:
    """Return text as code that stays in its line and its cell of a table."""
    flat = _flatten(text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest or not flat.strip() else ""
    return f"{fence}{space}{flat}{space}{fence}"


def _flatten(text: object) -> str:
    """Return text with nothing in it that would end a line; such characters as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
