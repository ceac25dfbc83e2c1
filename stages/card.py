"""Model cards: what a student is, in the form that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def write_card(record: Mapping[str, Any]) -> str:
    """Write a student's README.md.

    Args:
        record: What the student was trained from and how, as kept beside its weights.

    Returns:
        Markdown with a YAML head.
    """
    task, held_out, training = record["task"], record["held_out"], record["training"]
    labels = [label["name"] for label in task["labels"]]
    text_free = record["sampler"] != "texts"
    data = (
        f"{record['rows']:,} random inputs of the sampler `{record['sampler']}`; no text was used"
        if text_free
        else f"{record['rows']:,} texts, without their labels"
    )
    head = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [text-classification, distillation, functional-projection]",
        "---",
    ]
    body = [
        f"# {task['name']}: {record['arch']} student",
        "",
        "A text classifier with the labels "
        + ", ".join(f"`{label}`" for label in labels)
        + f", projected from the language model `{record['teacher']}` under a prompt.",
        "",
        "| | |",
        "|---|---|",
        f"| prompt | `{json.dumps(task['prompt'], ensure_ascii=False)}` |",
        f"| suffix | `{json.dumps(task['suffix'], ensure_ascii=False)}` |",
        f"| trained on | {data} |",
        f"| cache fingerprint | `{record['fingerprint']}` |",
        f"| encoder | {record['arch']}, {record['init']} start |",
        f"| objective | {training['objective']}, {training['steps']:,} steps of "
        f"{training['rows']} rows, seed {training['seed']} |",
        f"| longest input | {task['max_length']} pieces |",
        "",
        f"On {held_out['rows']:,} held-out rows of the same inputs: agreement with the teacher "
        f"{held_out['agreement']:.1%}, angle α {held_out['angle']:.3f} rad, centred angle "
        f"{held_out['centred_angle']:.3f} rad.",
        "",
        "```python",
        "import transformers",
        "",
        'classify = transformers.pipeline("text-classification", model="this directory")',
        'classify("some text", truncation=True)',
        "```",
        "",
        "It repeats the teacher's answers, mistakes and leanings included, and was not measured "
        "on any text unless stated above. The prompt is not part of its input.",
        "",
    ]
    return "\n".join(head + body)
