"""Loading from transformers: models that lack no weight, and tokenizers; no code is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError, StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_weights(
    kind: Any,
    source: str,
    what: str,
    may_be_new: Callable[[PreTrainedModel, str], bool] | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a model from safetensors, none of its weights missing.

    ``kind`` is one of transformers' classes with ``from_pretrained``, ``what`` says for messages
    what it is to be.  ``may_be_new`` says of a model's weight whether it may be missing, such as a
    head's that is to be trained; None: no weight may.

    Raises:
        ModelError: It cannot be loaded, or a weight is missing or of another shape.
    """
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    try:
        model, found = kind.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # transformers raises a dozen types, some of them bare
        reason = one_line(error)
        if "file named model.safetensors" in reason:
            reason = (
                "it has no model.safetensors, and other files of weights, which may run code when "
                "they are read, are not loaded; where you trust them, convert them once with "
                "transformers' from_pretrained and save_pretrained, and give that directory"
            )
        raise ModelError(f"cannot load {what} from {source}: {reason}") from error
    # A weight of another shape comes with both shapes.
    other = {key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]}
    lost = sorted(
        key
        for key in {*found["missing_keys"], *other}
        if may_be_new is None or not may_be_new(model, key)
    )
    if lost:
        fault = "of another shape" if lost[0] in other else "missing"
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ModelError(f"{source} is not {what}: the weight {lost[0]}{more} is {fault}")
    loaded: PreTrainedModel = model
    return loaded


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory, or raise ModelError."""
    from transformers import AutoTokenizer

    with explained(ModelError, f"cannot load the tokenizer of {folder}"):
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


@contextmanager
def explained(kind: type[StageError], message: str) -> Iterator[None]:
    """Have whatever fails inside be an error of one sentence that begins with the message."""
    try:
        yield
    except Exception as error:  # transformers, torch and onnx raise dozens of types, some bare
        raise kind(f"{message}: {one_line(error)}") from error


def one_line(error: object) -> str:
    """Return an exception's text as one line of at most 300 characters, or its type's name."""
    return " ".join(str(error).split())[:300] or type(error).__name__
