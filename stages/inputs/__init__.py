"""What the teacher and the student are fed: random inputs from seeds, texts, written texts.

Gives ``Inputs`` for a run, the samplers of a cache, and every read and write of what a cache keeps
beside its rows.  Knows tasks and vocabularies, never runs a model.
"""

from stages.inputs.attachments import (
    ATTACHMENT,
    SELF_GENERATED,
    describe_difference,
    pack_attachments,
    read_self_generated,
    read_table,
    read_vocabulary,
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
from stages.inputs.self_generated import SelfGenerated, describe_agreement

__all__ = [
    "ATTACHMENT",
    "OWN",
    "SELF_GENERATED",
    "TEXTS",
    "UNIGRAM_CONTEXTS",
    "UNIGRAM_LENGTH",
    "Generation",
    "Inputs",
    "InputsConfig",
    "SelfGenerated",
    "build_parts",
    "describe_agreement",
    "describe_difference",
    "mix_parts",
    "pack_attachments",
    "prepare_inputs",
    "read_parts",
    "read_sampler",
    "read_self_generated",
    "read_table",
    "read_vocabulary",
]
