"""Prompts that make a model write an input of a task: a task's key ``write``."""

from __future__ import annotations

import re
from typing import Any

PLACE = "{label}"
"""Where a prompt names the label that a text is to be of."""

FORM = (
    f"must be a prompt for a text, in which nothing but {PLACE} may stand in braces, or `text:` "
    f"with one without {PLACE} and `labelled:` with one that has it"
)
"""What the key ``write`` must be."""
NO_NAME = re.compile(r"(label|class|category)?[\W\d_]*|.?", re.IGNORECASE)
"""What says nothing to a model as a label's name, as "1" and "LABEL_1"."""


def read_write(write: Any) -> dict[str, str | None] | None:
    """Return the fields of a task for its key ``write``; None: it is not what it must be."""
    if isinstance(write, str):
        write = {"labelled" if PLACE in write else "text": write}
    if not isinstance(write, dict) or not write or {*write} - {"text", "labelled"}:
        return None
    for key, text in write.items():
        if not isinstance(text, str) or not text.strip() or (PLACE in text) != (key == "labelled"):
            return None
        if {*"{}"} & {*text.replace(PLACE, "")}:
            return None
    return {"write": write.get("text"), "write_labelled": write.get("labelled")}


def request_text(prompt: str) -> str:
    r"""Return what a chat model is asked: "Write a news article." for ``A news article:\n``.

    A prompt that does not end with a colon is an instruction already and stays as it is.
    """
    said = prompt.strip()
    first = said[0] if said[1:2].isupper() else said[0].lower()
    return f"Write {first}{said[1:-1].rstrip()}." if said.endswith(":") else said
