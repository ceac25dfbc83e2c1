"""A causal language model as it is found: where it lies, whether it fits, how it is loaded.

Gives the model in evaluation mode, its identity (hashes) and its vocabulary (tokenizer files and
embedding table).  Knows devices and number formats, no tasks; imports no other room.
"""

from stages.lm.identity import describe_identity
from stages.lm.memory import keep_freed_memory, measure_free, place_model
from stages.lm.model import (
    Vocabulary,
    choose_attention,
    embed_vocabulary,
    find_start_id,
    load_language_model,
    load_language_tokenizer,
    load_vocabulary,
    pack_tokenizer,
    unpack_tokenizer,
)
from stages.lm.quantisation import check_quantisation
from stages.lm.resolve import resolve_model, resolve_tokenizer
