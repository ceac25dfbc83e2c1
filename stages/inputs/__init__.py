"""What the teacher and the student are fed: random inputs from seeds, texts, written texts.

Gives ``Inputs`` for a run, the samplers of a cache, and every read and write of what a cache keeps
besides its rows.  Knows tasks and vocabularies, never runs a model.
"""

from stages.inputs.attachments import (
    SELF_GENERATED,
    SelfGenerated,
    describe_agreement,
    describe_difference,
    find_objection,
    pack_attachments,
    read_sampler,
    read_samplers,
    read_self_generated,
    read_table,
    read_thresholds,
    read_vocabulary,
)
from stages.inputs.preparation import (
    LABELLED_SAMPLERS,
    MODEL_SAMPLERS,
    NOISE,
    NOISY,
    TEXTS,
    Inputs,
    InputsConfig,
    SamplingSettings,
    build_samplers,
    find_drawn,
    is_written,
    mix_parts,
    prepare_inputs,
)
