"""A language model in one file of llama.cpp (GGUF): configuration, tokenizer and weights.

transformers reads it and de-quantises the weights.  What lies beside the file is none of the model.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from stages.checkpoints import FORMAT, check_directory, check_pointers, explained, one_line
from stages.errors import ModelError
from stages.reporter import Reporter

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MAGIC = b"GGUF"
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
LONG = 1000
"""Items from which on an array in the header is passed over: a large vocabulary takes gguf half a
minute, and transformers has it read all three times, though its tokenizer comes another way."""

STRETCHED = "rope_freqs.weight"
"""By how much each frequency of the rotary positions is divided, as in Llama 3.1 and later."""


def choose_gguf(names: Sequence[str], where: str) -> str:
    """Return the only GGUF file of a place, or raise ModelError that lists them."""
    if len(names) > 1 and not all(map(PART.search, names)):
        listed = one_line(", ".join(names))
        raise ModelError(f"{where} holds {len(names)} GGUF files, give one: {listed}")
    return names[0]


def check_whole(name: str) -> None:
    """Raise ModelError if a file's name says that it is a part of a model."""
    if found := PART.search(name):
        raise ModelError(
            f"{name} is one of {int(found[1])} parts of a GGUF file; merge them once "
            "(llama-gguf-split --merge FIRST.gguf MERGED.gguf) and give MERGED.gguf"
        )


def open_gguf(file: Path) -> Any:
    """Return gguf's reader of a file that holds a language model, or raise ModelError."""
    check_pointers([file])
    with file.open("rb") as opened:
        begins = opened.read(len(MAGIC))
    if begins != MAGIC:
        if file.suffix.lower() != ".gguf":
            check_directory(file)
        raise ModelError(f"{file} is no GGUF file: got {begins!r} at its begin, must be {MAGIC!r}")
    if find_spec("gguf") is None:
        install = "pip install -c constraints.txt -e '.[gguf]'"
        raise ModelError(f"{file}: GGUF files need gguf, which is not installed: {install}")
    from gguf import GGUFReader

    check_whole(str(file))
    message = f"{file} is damaged or was not fetched whole, fetch it again"
    with explained(ModelError, message), _quick_reader():
        reader: Any = GGUFReader(file)
        reader.known = {key: field.contents() for key, field in reader.fields.items()}
    architecture = reader.known.get("general.architecture")
    kind, fault = reader.known.get("general.type", "model"), ""
    if kind == "adapter":
        fault = (
            "an adapter, not a model; merge it into its model once (llama-export-lora --model "
            f"MODEL.gguf --lora {file} --output MERGED.gguf) and give MERGED.gguf"
        )
    elif kind == "mmproj" or architecture == "clip":
        fault = "the part of a model that sees or hears (mmproj); give the language model's file"
    elif reader.known.get("split.count", 0) > 1:
        fault = f"one of {reader.known['split.count']} parts of a model; merge them once"
    elif reader.known.get(f"{architecture}.pooling_type"):
        fault = f"a model of embeddings ({architecture}); give one that predicts the next token"
    elif "token_embd.weight" not in {tensor.name for tensor in reader.tensors}:
        fault = f"no language model ({kind}, {len(reader.tensors)} tensors, no token_embd.weight)"
    if fault:
        raise ModelError(f"{file} holds {fault}")
    return reader


def count_weights(file: Path) -> int:
    """Return how many weights of a model a file holds."""
    return sum(int(each.n_elements) for each in open_gguf(file).tensors if each.name != STRETCHED)


def read_gguf_config(file: Path) -> PretrainedConfig:
    """Return the configuration as transformers reads it, or raise ModelError."""
    from transformers import AutoConfig, __version__

    reader, place = open_gguf(file), str(file.absolute())
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    rows = int(tensors["token_embd.weight"].shape[1])
    named = f"the architecture {reader.known.get('general.architecture')!r} from GGUF, {FORMAT}"
    message = f"{file}: transformers {__version__} cannot read {named}"
    with explained(ModelError, message), _quick_reader() as empty:
        config = AutoConfig.from_pretrained(empty, gguf_file=place, vocab_size=rows)
        if STRETCHED in tensors:  # which transformers leaves out
            factors = tensors[STRETCHED].data.tolist()
            own = {"rope_type": "longrope", "long_factor": factors, "short_factor": factors}
            own |= {"original_max_position_embeddings": config.max_position_embeddings}
            config.rope_parameters |= own | {"attention_factor": 1.0}
    return config


def load_gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a file, its chat template with it, or raise ModelError."""
    from transformers import PreTrainedTokenizerFast

    with (
        explained(ModelError, f"cannot load the tokenizer of {file}"),
        TemporaryDirectory() as empty,
    ):
        # Not AutoTokenizer, which reads all of the configuration before and gives the same.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(empty, gguf_file=str(file.absolute()))
    tokenizer.name_or_path = str(file)
    return tokenizer


def load_gguf(
    file: Path, load: Callable[..., PreTrainedModel], reporter: Reporter
) -> PreTrainedModel:
    """Have a model loaded from a file, and say what becomes of its weights; it can be stopped.

    What transformers does not read, and may change the model's answers, is warned of.
    """
    from transformers import modeling_gguf_pytorch_utils as loader
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    def track(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        with reporter.track("de-quantising", len(tensors), 0, "tensor") as advance:
            for tensor in tensors:
                yield tensor
                advance(1)

    with _quick_reader(), patch.object(loader, "tqdm", track):
        model = load(gguf_file=str(file.absolute()))
    reader, unread = open_gguf(file), []
    reporter.say(
        f"weights: {', '.join(sorted({each.tensor_type.name for each in reader.tensors}))} in a "
        f"file of {file.stat().st_size / 2**30:.2f} GiB, de-quantised to {model.dtype}: "
        f"{model.get_memory_footprint() / 2**30:.2f} GiB of memory".replace("torch.", "")
    )
    if (more := count_weights(file) - sum(each.numel() for each in model.parameters())) > 0:
        unread.append(f"{more:,} weights")
    stretch = reader.known.get(f"{reader.known['general.architecture']}.rope.scaling.type", "none")
    if stretch != "none" and stretch not in str(getattr(model.config, "rope_parameters", "")):
        unread.append(f"the scaling of positions ({stretch})")
    cut = reader.known.get("tokenizer.ggml.pre", "default")
    if reader.known.get("tokenizer.ggml.model") == "gpt2" and cut not in {
        *("default", "gpt-2"),
        *GGUF_PRE_TOKENIZER_SPLITS,
    }:
        unread.append(f"how words are told apart ({cut}; done as GPT-2 does)")
    if unread:
        reporter.warn(
            f"transformers does not read {' and '.join(unread)} in {file}, so its answers may "
            "differ from those of the model in transformers' format, which is exact"
        )
    return model


@contextmanager
def _quick_reader() -> Iterator[str]:
    """Have gguf's reader take arrays of a header that are long as empty; gives a directory."""
    from gguf.gguf_reader import GGUFReader, GGUFValueType

    read = GGUFReader._get_field_parts

    def read_quickly(self: Any, orig_offs: int, raw_type: int) -> Any:
        array = raw_type == GGUFValueType.ARRAY
        kind, count = struct.unpack_from("<IQ", self.data, orig_offs) if array else (0, 0)
        if count < LONG:
            return read(self, orig_offs, raw_type)
        end = orig_offs + 12
        size, parts, _, types = read(self, end, kind)
        if kind != GGUFValueType.STRING:
            end += size * count
        else:
            for _ in range(count):
                end += 8 + struct.unpack_from("<Q", self.data, end)[0]
        return end - orig_offs, parts, [], [GGUFValueType.ARRAY, *types]

    with patch.object(GGUFReader, "_get_field_parts", read_quickly), TemporaryDirectory() as empty:
        yield empty
