"""Loading a causal language model for inference, which is tried, and its vocabulary.

The vocabulary is the embedding of every token and the tokenizer's files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.checkpoints import (
    explained,
    load_tokenizer,
    load_weights,
    make_input_tokenizer,
    restrict_tokenizer,
)
from stages.devices import ALL
from stages.errors import ModelError
from stages.lm.gguf_file import load_gguf, load_gguf_tokenizer
from stages.lm.memory import check_fit, share_memory
from stages.lm.quantisation import check_quantisation, make_quantisation
from stages.lm.resolve import read_config
from stages.reporter import Reporter, SilentReporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS, TOKENS, EARLY = 2, 8, 4
"""Rows and tokens that are tried; the first of these are to keep their logits."""

MARGIN = 8
"""How many times rounding that reaches from row to row the change may be."""

ROWS_AT_ONCE = 4096
"""Token ids that are looked up at once."""


@dataclass(frozen=True)
class Vocabulary:
    """What a student needs of the language model."""

    table: torch.Tensor  # embeddings, shape (V, d_T), on the CPU
    files: Mapping[str, bytes]  # the tokenizer's, by name
    start_id: int  # begins every input
    task: Mapping[str, Any]  # as a cache describes it


def choose_attention(folder: Path) -> str:
    """Return how attention is computed: ``sdpa``, or ``eager`` where a family needs that."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(read_config(folder))]
    return "sdpa" if kind._supports_sdpa else "eager"


def load_language_model(
    folder: Path,
    device: str,
    dtype: str,
    quantise: str = "none",
    reporter: Reporter | None = None,
) -> PreTrainedModel:
    """Load a causal language model for inference, in evaluation mode, its weights frozen.

    Weights go straight to where they are used, each converted or quantised on the way, so that the
    machine's own memory never holds the whole of a model that is meant for a GPU.  With ``all`` its
    layers lie over every CUDA device, and inputs go to the input embeddings' device.  SettingError:
    it cannot be quantised so here; ModelError: it is no causal LM, damaged, or larger than the
    device.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_kernels_available

    # With this package transformers fetches kernels, of some families and checkpoints unasked.
    if is_kernels_available():
        raise ModelError(
            "the package kernels is installed, with which transformers fetches code from a hub and "
            "runs it, where a model asks for it: pip uninstall kernels"
        )
    check_quantisation(quantise, device, dtype)
    attention = choose_attention(folder)
    check_fit(folder, device, dtype, quantise)
    if device == ALL:
        options: dict[str, Any] = {"device_map": "auto", "max_memory": share_memory()}
    else:
        options = {"device_map": {"": torch.device(device)}}
    if quantise != "none":
        options["quantization_config"] = make_quantisation(folder, quantise)
    load = partial(
        load_weights,
        AutoModelForCausalLM,
        str(folder),
        "a causal LM",
        # Not read again from the folder, where it may name an attention of its own.
        config=read_config(folder),
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        **options,
    )
    try:
        model = (
            load_gguf(folder, load, reporter or SilentReporter()) if folder.is_file() else load()
        )
    except ModelError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            check_fit(folder, device, dtype, quantise, ran_out=True)
        raise
    places = getattr(model, "hf_device_map", {})
    if device == ALL and {"cpu", "disk"} & set(map(str, places.values())):
        check_fit(folder, device, dtype, quantise, ran_out=True)
    model.requires_grad_(False)
    check_causal(model.eval(), folder, quantise)
    return model


@torch.inference_mode()
def check_causal(model: PreTrainedModel, folder: Path, quantise: str = "none") -> None:
    """Raise ModelError if later tokens change the logits of earlier ones, or it cannot be run.

    In most models nothing changes, not a bit, in any number format.  Where rows share a computation
    (experts, scales of quantised activations) its rounding does, and by about as much as other rows
    change a row, which later tokens cannot.
    """
    table = model.get_input_embeddings().weight
    drawn = torch.randint(len(table), (5, ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    first, later, *others = drawn
    later[1:], later[0, :EARLY], drawn[2:, 0] = first[1:], first[0, :EARLY], first[0]

    def run(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids.to(table.device), use_cache=False).logits
        return logits[0].float()

    fault = f"cannot run {type(model).__name__} of {folder}"
    if quantise != "none":  # some families reach into their layers for the weight itself
        fault = f"{type(model).__name__} cannot be run with {quantise} weights; leave quantise out"
    with explained(ModelError, fault):
        wanted = run(first)
        embedded = model.get_input_embeddings()(first.to(table.device))
        alike = model(inputs_embeds=embedded, use_cache=False).logits[0].float()
    if not torch.allclose(alike, wanted, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ModelError(f"{fault}: it reads token ids otherwise than the ids' embeddings")
    with explained(ModelError, fault):
        moved = (run(later) - wanted)[:EARLY].abs().max().item()
        # What is not finite is refused with the first row that is.
        if moved == 0 or not wanted.isfinite().all():
            return
        noise = max((run(ids) - wanted).abs().max().item() for ids in others)
    if not moved <= MARGIN * noise:
        masked = getattr(model.config, "is_decoder", None) is False
        why = " (its config.json does not say is_decoder)" if masked else ""
        raise ModelError(
            f"{folder} is no causal LM: in {type(model).__name__}{why} later tokens change the "
            f"logits of earlier ones, by up to {moved:.2g}, as in masked language models; give a "
            "decoder"
        )


def load_vocabulary(
    folder: Path,
    device: str,
    dtype: str,
    task: Mapping[str, Any],
    reporter: Reporter | None = None,
) -> Vocabulary:
    """Read a language model's vocabulary, or raise ModelError; the model itself is not kept.

    It is loaded on a device since a family may compute in its embedding layer.
    """
    tokenizer = load_language_tokenizer(folder)
    # A copy: what was made in inference mode cannot be written to, and a student's start is of it.
    model = load_language_model(folder, device, dtype, reporter=reporter)
    table = embed_vocabulary(model).cpu().clone()
    files = pack_tokenizer(make_input_tokenizer(tokenizer))
    return Vocabulary(table, files, find_start_id(tokenizer), task)


def load_language_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer without the tokens that a model has no embedding of, or raise ModelError."""
    if folder.is_file():
        tokenizer = load_gguf_tokenizer(folder)
    else:
        tokenizer = load_tokenizer(folder)
        if not (folder / "config.json").is_file():  # a tokenizer alone
            return tokenizer
    rows = getattr(read_config(folder).get_text_config(), "vocab_size", None)
    return tokenizer if rows is None else restrict_tokenizer(tokenizer, rows)


@torch.inference_mode()
def embed_vocabulary(model: PreTrainedModel) -> torch.Tensor:
    """Return the embedding of every token id, shape (V, d_T), in the model's number format.

    Through the module, not its weight: some families scale inside it.
    """
    embed = model.get_input_embeddings()
    vocabulary = torch.arange(embed.weight.shape[0], device=embed.weight.device)
    return torch.cat([embed(part) for part in torch.split(vocabulary, ROWS_AT_ONCE)]).clone()


def find_start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that begins a student's input: BOS, or EOS; ModelError if there is neither."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError("the tokenizer has neither a BOS nor an EOS token to begin an input with")


def pack_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return a tokenizer's files by name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.name: path.read_bytes()
            for path in sorted(Path(folder).iterdir())
            if path.is_file()
        }


def unpack_tokenizer(files: Mapping[str, bytes]) -> PreTrainedTokenizerBase:
    """Load a tokenizer from :func:`pack_tokenizer`'s files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return load_tokenizer(Path(folder))
