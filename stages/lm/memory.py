"""Whether a language model fits a device, and what would; memory kept from batch to batch."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from stages.checkpoints import explained
from stages.devices import ALL, Choice, list_groups
from stages.errors import ModelError
from stages.lm.gguf_file import count_weights
from stages.lm.quantisation import divide_layers

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

CAST = ("F64", "F32", "F16", "BF16")
"""The number formats of safetensors that are converted to the one asked for; others stay."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**30
"""Bytes of a buffer that is taken from the process's own memory, and of what is kept of it."""

GIB = 2**30


def measure_free(device: str, root: Path = Path("/")) -> int:
    """Return the bytes that can still be allocated on a device, or on all CUDA devices together.

    For ``cpu`` it is what the system says is available, or what a control group leaves of
    it; its files are found below ``root``.
    """
    import psutil
    import torch

    if device == ALL:
        return sum(torch.cuda.mem_get_info(each)[0] for each in range(torch.cuda.device_count()))
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return min([int(psutil.virtual_memory().available), *_measure_groups(root)])


def count_bytes(folder: Path, dtype: str, quantise: str = "none") -> int:
    """Return the bytes that a model's weights take once they are loaded, from their headers alone.

    A quantised layer takes a byte a weight and a float32 scale a row.
    """
    from huggingface_hub import get_local_safetensors_metadata

    size, total, files = BYTES[dtype], 0, []
    message = f"cannot load a causal LM from {folder}: cannot read its safetensors"
    if folder.is_file():  # which transformers de-quantises
        total = count_weights(folder) * size
    else:
        with explained(ModelError, message):
            files = list(get_local_safetensors_metadata(folder).files_metadata.values())
    for tensor in (each for file in files for each in file.tensors.values()):
        begin, end = tensor.data_offsets
        total += tensor.parameter_count * size if tensor.dtype in CAST else end - begin
    if quantise != "none":
        for rows, columns in divide_layers(folder, quantise)[0].values():
            total += rows * columns * (1 - size) + rows * 4
    return total


def add_margin(weights: int) -> int:
    """Return the bytes that a model needs: its weights, and an eighth for a batch."""
    return weights + weights // 8 + 2**26


def place_model(folder: Path, asked: str, device: Choice, dtype: str, quantise: str) -> Choice:
    """Split a model over all CUDA devices where one has no room for it and all together have.

    It may go by what is free now: which devices compute a row is not part of what the row is.  All
    that is ``asked`` for but ``auto`` stays as it is.  ModelError: the weights are damaged, or
    cannot be quantised.
    """
    if asked != "auto" or device.value == "cpu" or _count_devices() < 2:
        return device
    needed = add_margin(count_bytes(folder, dtype, quantise))
    free, together = measure_free(device.value), measure_free(ALL)
    if needed <= free or needed > together:
        return device
    return Choice(
        ALL,
        f"auto: the model needs {needed / GIB:.1f} GiB, {device.value} has {free / GIB:.1f} GiB "
        f"free, {_count_devices()} CUDA devices have {together / GIB:.1f} GiB together",
    )


def share_memory() -> dict[int, int]:
    """Return the bytes of weights that each CUDA device can take, a part left for a batch."""
    return {each: measure_free(f"cuda:{each}") * 8 // 9 for each in range(_count_devices())}


def check_fit(
    folder: Path, device: str, dtype: str, quantise: str = "none", ran_out: bool = False
) -> None:
    """Refuse a model that has no room on a device, and say what would fit.

    ``ran_out`` refuses it whatever is free: another process took what seemed enough, or no cut
    through the model's layers suits the devices.
    """
    free = 0 if ran_out else measure_free(device)
    weights = count_bytes(folder, dtype, quantise)
    needed = add_margin(weights)
    if needed <= free:
        return
    fitting = []
    if dtype == "float32" and add_margin(count_bytes(folder, "bfloat16", quantise)) <= free:
        fitting.append("dtype bfloat16")
    if quantise == "none":
        with suppress(ModelError):  # not of a kind that can be quantised, so nothing to offer
            if add_margin(count_bytes(folder, dtype, "int8")) <= free:
                fitting.append("quantise int8")
    if device not in (ALL, "cpu") and _count_devices() > 1 and needed <= measure_free(ALL):
        together = f"{_count_devices()} CUDA devices, {measure_free(ALL) / GIB:.1f} GiB free"
        fitting.append(f"device all ({together} together)")
    if device != "cpu" and quantise != "fp8" and needed <= measure_free("cpu"):
        fitting.append(f"device cpu ({measure_free('cpu') / GIB:.1f} GiB available)")
    kind = dtype if quantise == "none" else f"{dtype} with {quantise} weights"
    where = "the CUDA devices together" if device == ALL else device
    found = f"{free / GIB:.2f} GiB are free, {(needed - free) / GIB:.2f} GiB are missing"
    found = "and its memory ran out while it was loaded" if ran_out else found
    raise ModelError(
        f"{folder} does not fit on {where}: it needs {needed / GIB:.2f} GiB in {kind} "
        f"({weights / GIB:.2f} GiB of weights, the rest for a batch), {found}; "
        + (f"what would fit: {', '.join(fitting)}" if fitting else "use a smaller model")
    )


def keep_freed_memory(device: str) -> str:
    """Have this process keep what it frees, and return what was done; its peak is as before.

    The C library gives the buffers of a batch on a CPU, a few megabytes in every layer, back when
    they are freed, so that the next are made of new pages, which the kernel has to clear: a tenth
    of the time of a forward pass.
    """
    if device != "cpu":
        return "freed memory: kept by torch's own allocator"
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    # Threads of their own would each get memory of their own; the model runs in the main thread.
    if set_option is None or not (
        set_option(M_MMAP_THRESHOLD, LARGEST) and set_option(M_TRIM_THRESHOLD, LARGEST)
    ):
        return "freed memory: left to the C library, which cannot be told to keep it"
    return "freed memory: kept for the next batch"


def _count_devices() -> int:
    """Return how many CUDA devices one model may be split over."""
    import torch

    # A rank of torchrun has one device, the others belong to the other ranks.
    return 1 if "LOCAL_RANK" in os.environ else torch.cuda.device_count()


def _measure_groups(root: Path) -> list[int]:
    """Return what each control group around this process leaves of its memory."""
    free = []
    for group in list_groups(root):
        with suppress(FileNotFoundError):  # the root group has none of these files
            most, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
            stat = (group / "memory.stat").read_text().splitlines()
            if most.strip() != "max":
                # Pages of files count as used, and are given back when memory is asked for.
                cached = dict(map(str.split, stat)).get("inactive_file", "0")
                free.append(max(int(most) - int(used) + int(cached), 0))
    return free
