"""A language model in one file of llama.cpp (GGUF): configuration, tokenizer and weights.

transformers reads it and de-quantises the weights.  What lies beside the file is none of the model.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.directories import FORMAT, check_pointers
from stages.errors import ModelError
from stages.loading import explained

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from stages.reporter import Reporter

MAGIC = b"GGUF"
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
LONG = 1000
"""Items from which on an array in the header is passed over: a vocabulary takes gguf's own reader
half a minute, and transformers reads the header three times and the vocabulary by itself."""

STRETCHED = "rope_freqs.weight"
"""By how much each frequency of the rotary positions is divided, as in Llama 3.1 and later."""


def choose_gguf(names: Sequence[str], where: str) -> str:
    """Return the only GGUF file of a place, or raise ModelError that lists them."""
    if len(names) > 1 and not all(PART.search(name) for name in names):
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        listed = ", ".join(names[:6])
        raise ModelError(f"{where} holds {len(names)} GGUF files, give one: {listed}{more}")
    check_whole(names[0])
    return names[0]


def check_whole(name: str) -> None:
    """Raise ModelError if a file's name says that it is a part of a model."""
    if found := PART.search(name):
        raise ModelError(
            f"{name} is one of {int(found[1])} parts of a GGUF file; merge them once "
            "(llama-gguf-split --merge FIRST.gguf MERGED.gguf) and give MERGED.gguf"
        )


def is_gguf(file: Path) -> bool:
    """Whether a file is of this kind by its name or its first bytes."""
    check_pointers([file])  # which says as well why it cannot be read
    with file.open("rb") as opened:
        return file.suffix.lower() == ".gguf" or opened.read(len(MAGIC)) == MAGIC


def open_gguf(file: Path) -> Any:
    """Return gguf's reader of a file that holds a language model, or raise ModelError."""
    with file.open("rb") as opened:
        begins = opened.read(len(MAGIC))
    if begins != MAGIC:
        raise ModelError(f"{file} is no GGUF file: got {begins!r} at its begin, must be {MAGIC!r}")
    if find_spec("gguf") is None:
        raise ModelError(
            f"{file}: GGUF files need gguf, which is not installed: "
            "pip install -c constraints.txt -e '.[gguf]'"
        )
    check_whole(str(file))
    message = f"{file} is damaged or was not fetched whole, fetch it again"
    with explained(ModelError, message):
        reader = _define_reader()(file)
        known = {key: field.contents() for key, field in reader.fields.items()}
    architecture = known.get("general.architecture")
    kind, fault = known.get("general.type", "model"), ""
    if kind == "adapter":
        fault = (
            "an adapter, not a model; merge it into its model once (llama-export-lora --model "
            f"MODEL.gguf --lora {file} --output MERGED.gguf) and give MERGED.gguf"
        )
    elif kind == "mmproj" or architecture == "clip":
        fault = "the part of a model that sees or hears (mmproj); give the language model's file"
    elif known.get("split.count", 0) > 1:
        fault = f"one of {known['split.count']} parts of a model; merge them (llama-gguf-split)"
    elif known.get(f"{architecture}.pooling_type"):
        fault = f"a model of embeddings ({architecture}); give one that predicts the next token"
    elif not any(tensor.name == "token_embd.weight" for tensor in reader.tensors):
        fault = f"no language model ({kind}, {len(reader.tensors)} tensors, no token_embd.weight)"
    if fault:
        raise ModelError(f"{file} holds {fault}")
    return reader


def count_weights(file: Path) -> int:
    """Return how many weights a file holds."""
    return sum(int(tensor.n_elements) for tensor in open_gguf(file).tensors)


def read_gguf_config(file: Path) -> PretrainedConfig:
    """Return the configuration as transformers reads it, or raise ModelError."""
    from transformers import AutoConfig, __version__

    reader = open_gguf(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    architecture = reader.fields["general.architecture"].contents()
    message = f"{file}: transformers {__version__} cannot read the architecture {architecture!r}"
    with explained(ModelError, f"{message} from GGUF, {FORMAT}"), _lent_reader() as empty:
        config = AutoConfig.from_pretrained(
            empty,
            gguf_file=str(file.absolute()),
            vocab_size=int(tensors["token_embd.weight"].shape[1]),
        )
        if STRETCHED in tensors:  # which transformers leaves out
            factors = tensors[STRETCHED].data.tolist()
            config.rope_parameters |= {
                "rope_type": "longrope",
                "attention_factor": 1.0,
                "long_factor": factors,
                "short_factor": factors,
                "original_max_position_embeddings": config.max_position_embeddings,
            }
    return config


def load_gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a file, its chat template with it, or raise ModelError."""
    from transformers import PreTrainedTokenizerFast

    message = f"cannot load the tokenizer of {file}"
    with explained(ModelError, message), TemporaryDirectory() as empty:
        # Not AutoTokenizer, which reads all of the configuration before and gives the same.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(empty, gguf_file=str(file.absolute()))
    tokenizer.name_or_path = str(file)
    return tokenizer


@contextmanager
def follow_gguf(file: Path, dtype: str, size: int, reporter: Reporter) -> Iterator[None]:
    """Say what becomes of a file's weights that are loaded inside, and show it; it can be stopped.

    ``size`` is what a weight takes in ``dtype``, in bytes.
    """
    from transformers import modeling_gguf_pytorch_utils as loader

    reader = open_gguf(file)
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    reporter.say(
        f"weights: {', '.join(kinds)} in a file of {file.stat().st_size / 2**30:.2f} GiB, "
        f"de-quantised to {dtype}: {weights * size / 2**30:.2f} GiB of memory"
    )

    def track(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        with reporter.track("de-quantising", len(tensors), 0, "tensor") as advance:
            for tensor in tensors:
                reporter.check_stop()
                yield tensor
                advance(1)

    bar, loader.tqdm = loader.tqdm, track
    try:
        with _lent_reader():
            yield
    finally:
        loader.tqdm = bar


def describe_unread(file: Path, model: PreTrainedModel) -> str | None:
    """Say what of a file transformers has not read, if that may change the model's answers."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    reader, unread = open_gguf(file), []
    fields = {key: field.contents() for key, field in reader.fields.items()}
    held = sum(int(tensor.n_elements) for tensor in reader.tensors if tensor.name != STRETCHED)
    if (more := held - sum(weight.numel() for weight in model.parameters())) > 0:
        unread.append(f"{more:,} weights")
    stretch = fields.get(f"{fields['general.architecture']}.rope.scaling.type", "none")
    if stretch != "none" and stretch not in str(getattr(model.config, "rope_parameters", "")):
        unread.append(f"the scaling of positions ({stretch})")
    cut = fields.get("tokenizer.ggml.pre", "default")
    if fields.get("tokenizer.ggml.model") == "gpt2" and cut not in {
        "default",
        "gpt-2",
        *GGUF_PRE_TOKENIZER_SPLITS,
    }:
        unread.append(f"how words are told apart ({cut}; done as GPT-2 does)")
    if not unread:
        return None
    return (
        f"transformers does not read {' and '.join(unread)} in {file}, so its answers may differ "
        "from those of the model in transformers' format, which is exact"
    )


@contextmanager
def _lent_reader() -> Iterator[str]:
    """Have transformers read headers with :func:`_define_reader`'s; gives an empty directory."""
    import gguf

    own, gguf.GGUFReader = gguf.GGUFReader, _define_reader()
    try:
        with TemporaryDirectory() as empty:
            yield empty
    finally:
        gguf.GGUFReader = own


def _define_reader() -> Any:
    import numpy as np
    from gguf.gguf_reader import GGUFReader, GGUFValueType

    class Reader(GGUFReader):  # type: ignore[misc]
        """Reads arrays of a header that are long as empty ones."""

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            if count < LONG:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, end = self._get(orig_offs, np.uint32)[0], orig_offs + 12
            size, parts, _, types = self._get_field_parts(end, kind)
            if kind == GGUFValueType.STRING:
                for _ in range(count):
                    end += 8 + struct.unpack_from("<Q", self.data, end)[0]
            else:
                end += size * count
            return end - orig_offs, parts, [], [GGUFValueType.ARRAY, *types]

    return Reader
