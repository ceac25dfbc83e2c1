from __future__ import annotations

import pytest
from tiny import make_tokenizer
from transformers import PreTrainedTokenizerFast

from stages.errors import ModelError
from stages.lm import find_start_id


def test_an_input_begins_with_bos_or_eos_and_a_tokenizer_with_neither_is_refused() -> None:
    for start, token in (("<s>", "<s>"), (None, "</s>")):
        tokenizer = make_tokenizer(start=start)
        assert find_start_id(tokenizer) == tokenizer.convert_tokens_to_ids(token)
    bare = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    with pytest.raises(ModelError, match="neither a BOS nor an EOS"):
        find_start_id(bare)
