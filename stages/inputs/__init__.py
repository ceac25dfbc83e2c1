"""TODO."""

from stages.inputs.attachments import (
    ATTACHMENT,
    OWN_TEXTS,
    describe_difference,
    pack_attachments,
    read_own_texts,
    read_table,
    read_words,
)
from stages.inputs.config import Generation, InputsConfig
from stages.inputs.preparation import (
    OWN,
    TEXTS,
    UNIGRAM_CONTEXTS,
    UNIGRAM_LENGTH,
    Inputs,
    prepare_inputs,
)
from stages.inputs.samplers import build_parts, mix_parts, read_parts, read_sampler
from stages.inputs.self_generated import OwnTexts, describe_agreement

__all__ = [
    "ATTACHMENT",
    "OWN",
    "OWN_TEXTS",
    "TEXTS",
    "UNIGRAM_CONTEXTS",
    "UNIGRAM_LENGTH",
    "Generation",
    "Inputs",
    "InputsConfig",
    "OwnTexts",
    "build_parts",
    "describe_agreement",
    "describe_difference",
    "mix_parts",
    "pack_attachments",
    "prepare_inputs",
    "read_own_texts",
    "read_parts",
    "read_sampler",
    "read_table",
    "read_words",
]
