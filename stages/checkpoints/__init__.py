"""Directories in the format of transformers: what one holds, a model or tokenizer loaded from it.

Gives ``load_tokenizer``, ``load_weights``, ``load_config``, checks of a directory before a model
is loaded, and what a tokenizer's own tokens do to texts.  Knows no tasks; imports no other room.
"""

from stages.checkpoints.directories import (
    ADAPTER,
    FORMAT,
    INDEX,
    WEIGHTS,
    check_directory,
    check_pointers,
    describe_adapter,
    find_weights,
    list_shards,
    read_json,
)
from stages.checkpoints.loading import (
    explained,
    load_config,
    load_tokenizer,
    load_weights,
    one_line,
)
from stages.checkpoints.tokens import (
    check_template,
    describe_lost,
    drop_tokens,
    has_dummy_space,
    make_input_tokenizer,
    name_lost,
    restrict_tokenizer,
)
