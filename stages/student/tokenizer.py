"""A student's tokenizer: the language model's, with the start token first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def build_tokenizer(
    files: Mapping[str, bytes], start_id: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Return the language model's tokenizer as the student needs it.

    It puts the start token first, adds nothing else, reads control tokens in texts as plain text,
    and pads and cuts on the right, at ``max_length`` tokens behind the start token.
    """
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    if "tokenizer.json" not in files:
        raise ExportError(
            "the language model's tokenizer has no tokenizer.json, which students are served with"
        )
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
    start = tokenizer.id_to_token(start_id)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, start_id)]
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    specials = {
        name: token["content"] if isinstance(token, dict) else token
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (token := config.get(name))
    }
    # A language model seldom has a padding token; what stands under the mask is never read.
    specials.setdefault("pad_token", specials.get("eos_token") or start)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length + 1,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **specials,
    )
