"""Choosing devices, number formats and the default model, each with the reason for the log.

Choices that a fingerprint depends on follow from what a machine is, never from a timing or from
what happens to be free: the same command, beside a running one or after it, means the same rows.
"""

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import SettingError

LLAMA = "meta-llama/Llama-2-7b-hf"
LLAMA_BYTES = 16 * 2**30
"""What Llama-2-7b needs on a device: 13.5 GB of bf16 weights, and room for a batch."""

DTYPES = ("float32", "bfloat16", "float16")

ALL = "all"
"""The device that is every CUDA device of the machine, one model split over them."""

FAST_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply bfloat16: Intel's tiles, AVX-512's, and ARM's under torch's name."""


@dataclass(frozen=True)
class Choice:
    """A value and, in words for the log, why it was chosen."""

    value: str
    reason: str


def choose_device(device: str, several: bool = False) -> Choice:
    """Resolve ``auto`` to the device that this machine has; ``cuda`` is each rank's own.

    Under torchrun ``auto`` and ``cuda`` are the CUDA device of the process's local rank: every rank
    is a worker with shards and a model of its own.  A large model is split by ``all`` within one
    process instead, where ``several`` allows it.  Raises SettingError where the device asked for is
    not there or is no device.
    """
    import torch

    count, rank = torch.cuda.device_count(), os.environ.get("LOCAL_RANK")
    if device == ALL and several:
        if rank is not None:
            raise SettingError(
                "device 'all' splits one model over every CUDA device, torchrun starts a worker "
                "with a model of its own for each of them: use one or the other"
            )
        if count == 1:
            return Choice("cuda", "as asked: one CUDA device is all there is")
        if count > 1:
            return Choice(ALL, f"as asked: {count} CUDA devices")
    elif device == "auto" and not torch.cuda.is_available():
        return Choice("cpu", "auto: no CUDA device is there")
    elif device in ("auto", "cuda") and rank is not None:
        return _choose_ranks_device(rank, count)
    elif device == "auto":
        return Choice("cuda", f"auto: {torch.cuda.get_device_name()} is there")
    else:
        known = "auto, cpu, cuda, cuda:N or all" if several else "auto, cpu, cuda or cuda:N"
        try:
            parsed = torch.device(device)
        except RuntimeError as error:
            raise SettingError(f"device {device!r}: use {known}") from error
        if parsed.type not in ("cpu", "cuda"):
            raise SettingError(f"device {device!r}: use {known}")
        if parsed.type == "cpu" or (parsed.index or 0) < count:
            return Choice(device, "as asked")
    raise SettingError(f"device {device!r} is not there: torch sees {count} CUDA device(s)")


def find_main_device(device: str) -> str:
    """Return the device that torch knows: the first CUDA device for ``all``, or the device itself.

    Its type is what a fingerprint holds; a model split over devices takes its inputs there.
    """
    return "cuda:0" if device == ALL else device


def choose_model(model: str, device: str) -> Choice:
    """Resolve ``auto`` to Llama-2-7b where the device has room for it, otherwise to ``mini``."""
    import torch

    if model != "auto":
        return Choice(model, "as asked")
    if torch.device(find_main_device(device)).type != "cuda":
        return Choice("mini", f"auto: {LLAMA} needs a CUDA device, and the device is {device}")
    # Not by what is free.  What does not fit then is said when it is loaded.
    devices = range(torch.cuda.device_count()) if device == ALL else (torch.device(device),)
    room = sum(torch.cuda.mem_get_info(each)[1] for each in devices)
    if room < LLAMA_BYTES:
        need = f"{LLAMA_BYTES / 2**30:.0f} GiB"
        return Choice("mini", f"auto: {LLAMA} needs {need}, {device} has {room / 2**30:.1f} GiB")
    return Choice(LLAMA, f"auto: {device} has {room / 2**30:.0f} GiB")


def choose_dtype(dtype: str, device: str) -> Choice:
    """Resolve ``auto`` to the number format to compute in on a device, or raise SettingError."""
    import torch

    if dtype != "auto":
        if dtype not in DTYPES:
            raise SettingError(f"dtype: got {dtype!r}, must be auto or one of {', '.join(DTYPES)}")
        return Choice(dtype, "as asked")
    if torch.device(find_main_device(device)).type == "cuda":
        if has_bfloat16():
            return Choice("bfloat16", "auto: the GPU computes it natively")
        return Choice("float16", "auto: the GPU does not compute bfloat16 natively")
    # Without such instructions bfloat16 is emulated, several times slower than float32.
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = next((name for name in FAST_BF16 if able.get(name)), None)
    if fast is None:
        return Choice("float32", "auto: the CPU has no instructions that multiply bfloat16")
    if not torch.backends.mkldnn.is_available():
        return Choice("float32", f"auto: the CPU has {fast}, this build of torch does not use it")
    return Choice("bfloat16", f"auto: the CPU multiplies it by its own instructions, {fast}")


def has_bfloat16() -> bool:
    """Whether the CUDA device multiplies bfloat16 itself, not several times slower than float16."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _choose_ranks_device(rank: str, count: int) -> Choice:
    if not rank.isdecimal():
        raise SettingError(f"LOCAL_RANK: got {rank!r:.40}, must be a number, as torchrun sets it")
    if int(rank) >= count:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", "an unknown number of")
        raise SettingError(
            f"torchrun's local rank {rank} has no device of its own: torchrun started {ranks:.40} "
            f"processes here, torch sees {count} CUDA device(s); start one for each, or name "
            "the device cuda:N to share one, or cpu"
        )
    return Choice(f"cuda:{int(rank)}", f"torchrun's local rank {int(rank)}")


def list_groups(root: Path) -> list[Path]:
    """Return the directories of the control groups (version 2) that this process is in.

    ``root`` is where /proc and /sys lie.  In a container a group's place may be the host's, and
    only the top of it is there.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    place = next((Path(line[3:]) for line in lines if line.startswith("0::")), Path("/"))
    found = (root / "sys/fs/cgroup" / str(group)[1:] for group in (place, *place.parents))
    return [folder for folder in found if folder.is_dir()]


def count_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use, by its affinity and its control groups' quotas.

    ``root`` is as for :func:`list_groups`.
    """
    able = getattr(os, "sched_getaffinity", None)
    count = len(able(0)) if able else os.cpu_count() or 1
    for group in list_groups(root):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            if quota != "max":
                count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count


def describe_threads() -> str:
    """Return for the log how many threads torch computes with on the CPU."""
    import torch

    threads = torch.get_num_threads()
    return f"threads: {threads}, of {count_cpus()} CPUs that this process may use"


def describe_machine(device: str) -> dict[str, Any]:
    """Return what something was measured with: versions and hardware, never a machine's name."""
    import platform

    import numpy
    import torch
    import transformers

    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    if torch.device(device).type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)}, {machine}"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "machine": machine,
        "threads": torch.get_num_threads(),
    }
