"""Model cards: what a student is, in the form that model hubs read.

Everything in a card is in the student's record; nothing that was not measured is claimed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from stages.metrics import count_share, read_share
from stages.student.architectures import ARCHITECTURES

MARKED = "\\`*_[]<>#~$&|"
"""Characters that Markdown, or the HTML in it, would take for its own."""

SCORES = (("accuracy", "accuracy", "accuracy"), ("f1", "macro-F1", "macro_f1"))
"""A metric's kind and name on hubs, and its key in an evaluation."""

PYTHON = """```python
import transformers

classify = transformers.pipeline("text-classification", model="this directory")
classify("some text", truncation=True)
```"""


ONNX = """```python
import numpy as np
import onnxruntime
import tokenizers

tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({limit})
session = onnxruntime.InferenceSession("{file}")
ids = np.array([tokenizer.encode("some text").ids])
(logits,) = session.run(["logits"], {{"input_ids": ids, "attention_mask": np.ones_like(ids)}})
probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
```"""


def write_card(record: Mapping[str, Any], weights: bool = True) -> str:
    """Write a student's README.md.

    Args:
        record: What the student was trained from and how, as kept beside its weights;
            `calibration`, `exports` and `evaluations` may be absent.
        weights: Whether the weights for transformers are there as well.

    Returns:
        Markdown with a YAML head.
    """
    head = yaml.safe_dump(_describe_head(record), sort_keys=False, allow_unicode=True, width=1000)
    body = "\n\n".join(part for part in _write_parts(record, weights) if part)
    return f"---\n{head}---\n{body}\n"


def _describe_head(record: Mapping[str, Any]) -> dict[str, Any]:
    task = record["task"]
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["text-classification"]
        + ([] if _is_gold(record) else ["distillation", "functional-projection"]),
    }
    known = ARCHITECTURES.get(record["arch"])
    if record["init"] == "pretrained" and known is not None:
        head["base_model"] = known.hub_id
    results = [
        {
            "task": {"type": "text-classification"},
            "dataset": {"name": _flatten(_name_data(found)), "type": "text"},
            "metrics": [
                {"type": kind, "name": name, "value": found["student"][key]}
                for kind, name, key in SCORES
            ],
        }
        for found in _list_scored(record)
    ]
    if results:
        name = _flatten(f"{task['name']}-{record['arch']}")
        head["model-index"] = [{"name": name, "results": results}]
    return head


def _write_parts(record: Mapping[str, Any], weights: bool) -> Iterator[str]:
    task = record["task"]
    labels = [label["name"] for label in task["labels"]]
    yield f"# {_escape(task['name'])}: {_escape(record['arch'])} student"
    if _is_gold(record):
        origin = (
            "trained on labelled texts. No language model was asked; its tokens, and the "
            f"embeddings under its adapter, are those of {_quote(record.get('words_of', ''))}"
        )
    else:
        origin = f"projected from the language model {_quote(record['teacher'])} under a prompt"
    yield f"A text classifier with the labels {', '.join(map(_quote, labels))}, {origin}."
    yield "\n".join(_write_origin(record))
    yield "## Measured"
    yield from _write_measured(record)
    yield "## Use"
    yield from _write_use(record, weights)
    yield "## What it is for, and what not"
    yield _write_limits(record)


def _write_origin(record: Mapping[str, Any]) -> Iterable[str]:
    task, training = record["task"], record["training"]
    kind = "texts, without their labels"
    if _is_gold(record):
        kind = "texts with their labels"
    elif record["sampler"] != "texts":
        kind = f"random inputs of the sampler {_quote(record['sampler'])}; no text was used"
    share = training.get("encoder_share", 1.0)
    encoder = f", the encoder's {share * training['learning_rate']:g}" if share != 1.0 else ""
    words = [
        f"{_quote(label['name'])} ({', '.join(_quote(word) for word, _ in label['words'])})"
        for label in task["labels"]
    ]
    asked = [
        ("labels and their words", "; ".join(words)),
        ("prompt", _quote(json.dumps(task["prompt"], ensure_ascii=False))),
        ("suffix", _quote(json.dumps(task["suffix"], ensure_ascii=False))),
    ]
    cached = ("cache fingerprint", _quote(record["fingerprint"]))
    if _is_gold(record):
        asked, cached = [], ("SHA-256 of the texts", _quote(record.get("texts_sha256", "")))
    rows = [
        *asked,
        ("trained on", f"{record['rows']:,} {kind}"),
        cached,
        ("encoder", f"{_escape(record['arch'])}, {record['init']} start"),
        (
            "training",
            f"objective {training['objective']}, {training['steps']:,} steps of "
            f"{training['batch_size']} rows, learning rate {training['learning_rate']:g}{encoder}, "
            f"seed {training['seed']}",
        ),
        ("longest input", f"{task['max_length']} tokens"),
    ]
    return _write_table(("", ""), rows)


def _write_measured(record: Mapping[str, Any]) -> Iterator[str]:
    held_out, judge = record["held_out"], _name_judge(record)
    share = count_share(round(held_out["agreement"] * held_out["rows"]), held_out["rows"])
    yield (
        f"On {share.rows:,} held-out rows of the same inputs: agreement with {judge} {share}, "
        f"angle α {held_out['angle']:.3f} rad, centred angle {held_out['centred_angle']:.3f} rad. "
        "In brackets is the interval of 95 %."
    )
    own = read_share(record.get("self_generated"))
    if own is not None:
        yield (
            f"On {own.rows:,} texts that the teacher wrote itself, continuing its prompt: "
            f"agreement with it {own}."
        )
    found = record.get("calibration")
    if found:
        where = "is in its last layer" if found.get("folded") else "is not in its weights"
        yield (
            f"Temperature {found['temperature']:.2f}, fitted against {judge} on "
            f"{found['rows']:,} held-out rows; it {where}. Expected calibration error against "
            f"{judge} on {found['measured_rows']:,} other rows: {found['ece_before']:.1%} without "
            f"it, {found['ece_after']:.1%} with it."
        )
    files = record.get("exports") or []
    if files:
        rows = [
            (
                _quote(each["file"]),
                f"{each['bytes'] / 2**20:,.1f} MiB",
                f"{each['agreement']:.2%}",
                f"{each['largest_difference']:.1e}",
                f"{each['texts_per_second'] / each['original_texts_per_second']:.2f}",
            )
            for each in files
        ]
        names = ("file", "size", "same label", "largest difference", "speed, original = 1")
        yield "\n".join(_write_table(names, rows))
        yield (
            f"Against the student in torch on {files[0]['rows']:,} random inputs, one core, both "
            "in turns."
        )
    for each in _list_scored(record):
        yield from _write_scores(each, "the language model" if _is_gold(record) else "its teacher")


def _write_scores(found: Mapping[str, Any], asked: str) -> Iterator[str]:
    student, rows = found["student"], []
    yield f"On {found['rows']:,} labelled texts ({_escape(_name_data(found))}):"
    for name, scores in student["classes"].items():
        cells = (f"{scores[key]:.1%}" for key in ("precision", "recall", "f1"))
        rows.append((_quote(name), *cells, f"{scores['rows']:,}"))
    yield "\n".join(_write_table(("label", "precision", "recall", "F1", "texts"), rows))
    line = f"Accuracy {student['accuracy']:.1%}, macro-F1 {student['macro_f1']:.1%}"
    teacher = found.get("teacher")
    if teacher:
        line += f"; {asked} has {teacher['accuracy']:.1%} and {teacher['macro_f1']:.1%}"
    if found.get("agreement") is not None:
        line += f", and they agree on {found['agreement']:.1%}"
    yield f"{line}."
    errors = (found.get("calibration") or {}).get("against_labels")
    if errors:
        line = f"Expected calibration error against these labels: {errors['ece_after']:.1%}"
        if errors.get("ece_before") is not None:
            line += f"; {errors['ece_before']:.1%} without the temperature"
        yield f"{line}."


def _write_use(record: Mapping[str, Any], weights: bool) -> Iterator[str]:
    if weights:
        yield PYTHON
    files = [each["file"] for each in record.get("exports") or []]
    if files:
        yield (
            "The ONNX files take `input_ids` and `attention_mask` (int64, any batch and length) "
            "and give `logits`; `tokenizer.json` adds the start token. `pipeline tag --model "
            f"{files[-1]}` runs them with onnxruntime and tokenizers alone. Without this project:"
        )
        # The start token is one more than the tokens.
        yield ONNX.format(limit=record["task"]["max_length"] + 1, file=files[-1])


def _write_limits(record: Mapping[str, Any]) -> str:
    scored = _list_scored(record)
    labels, gold = record["task"]["labels"], _is_gold(record)
    real = gold or record["sampler"] == "texts"
    measured = "texts held out of its training alone" if real else "no text that people wrote"
    measured = "the texts named above" if scored else measured
    prompt = "" if gold else " The prompt is no part of its input."
    source = "the labels of its texts" if gold else "its teacher's answers"
    lines = [
        "It is for tagging many short texts with these labels where asking the language model for "
        "each would cost too much.",
        f"It repeats {source}, mistakes and leanings included, and was measured on {measured}. "
        "Measure it on labelled texts of your own before you rely on it, and do not "
        "let it decide about people by itself.",
        f"It gives one of its {len(labels)} labels to every text, one that fits none included; a "
        "threshold on the score can leave such texts out. Scores are calibrated, where that is "
        f"said above, against {_name_judge(record)} on inputs like those of its training"
        f"{'' if real else ', not on texts'}.",
        f"It reads the first {record['task']['max_length']:,} tokens of a text.{prompt} What "
        "languages it reads was not measured.",
        "The licences of the language model and of a pretrained encoder may bind its use.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _is_gold(record: Mapping[str, Any]) -> bool:
    """Whether a student was trained on labelled texts; older records do not say."""
    return bool(record.get("labels") == "gold")


def _name_judge(record: Mapping[str, Any]) -> str:
    return "the labels" if _is_gold(record) else "the teacher"


def _list_scored(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the evaluations of the student on labelled texts."""
    return [found for found in record.get("evaluations") or [] if found.get("student")]


def _name_data(found: Mapping[str, Any]) -> str:
    """Return the name of the file that was measured on, not where it lay."""
    return str(found.get("data", "a file not named")).rsplit("/", 1)[-1]


def _write_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _quote(text: object) -> str:
    """Return text as code that stays in its line and its cell of a table."""
    flat = _flatten(text).replace("|", "\\|")
    longest = max((len(run) for run in _runs(flat)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest or not flat.strip() else ""
    return f"{fence}{space}{flat}{space}{fence}"


def _escape(text: object) -> str:
    return "".join(f"\\{c}" if c in MARKED else c for c in _flatten(text))


def _flatten(text: object) -> str:
    """Return text with nothing in it that would end a line; such characters as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _runs(text: str) -> list[str]:
    """Return the stretches of backticks in a text."""
    return [run for run in "".join(c if c == "`" else " " for c in text).split(" ") if run]
