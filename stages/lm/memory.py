"""Whether a language model fits a device, before it is loaded, and what would fit instead."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

from stages.devices import ALL, Choice
from stages.errors import ModelError
from stages.lm.quantisation import find_linear_layers

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

CAST = ("F64", "F32", "F16", "BF16")
"""The number formats of safetensors that are converted to the one asked for; others stay."""

GIB = 2**30


def measure_room(device: str, root: Path = Path("/")) -> int:
    """Return the bytes that can still be allocated on a device.

    Args:
        device: ``cpu``, a CUDA device, or ``all`` for what every CUDA device has together.
        root: Where the system's files lie, for ``cpu``: what the kernel says is available, or
            what a control group (version 1 or 2) leaves of it.
    """
    import torch

    if device == ALL:
        return sum(torch.cuda.mem_get_info(each)[0] for each in range(torch.cuda.device_count()))
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return min([_read_available(root), *_read_group_rooms(root)])


def count_bytes(folder: Path, dtype: str, quantise: str = "none") -> int:
    """Return the bytes that a model's weights take once they are loaded, from their headers alone.

    Args:
        folder: A directory from :func:`stages.lm.model.resolve_model`.
        dtype: One of :data:`stages.devices.DTYPES`.
        quantise: One of ``QUANTISATIONS``; a quantised layer takes a byte a weight
            and a float32 scale a row.

    Raises:
        ModelError: A file is damaged, or cannot be quantised.
    """
    size = BYTES[dtype]
    total = 0
    for path in _list_weights(folder):
        for kind, elements, stored in _read_header(path):
            total += elements * size if kind in CAST else stored
    if quantise != "none":
        for rows, columns in find_linear_layers(folder, quantise).values():
            total += rows * columns * (1 - size) + rows * 4
    return total


def add_margin(weights: int) -> int:
    """Return the bytes that a model needs: its weights, and an eighth for a batch."""
    return weights + weights // 8 + 2**26


def place_model(folder: Path, asked: str, device: Choice, dtype: str, quantise: str) -> Choice:
    """Split a model over all CUDA devices where one has no room for it and all together have.

    It may go by what is free now: which CUDA devices compute a row is not part of what the row is.

    Args:
        folder: A directory from :func:`stages.lm.model.resolve_model`.
        asked: The device as it was asked for; all but ``auto`` stays as it is.
        device: What :func:`stages.devices.choose_device` chose.
        dtype: One of :data:`stages.devices.DTYPES`.
        quantise: One of :data:`stages.lm.quantisation.QUANTISATIONS`.

    Returns:
        The device, or ``all``.

    Raises:
        ModelError: The weights are damaged, or cannot be quantised.
    """
    import torch

    count = torch.cuda.device_count()
    # A rank of torchrun has one device, the others belong to the other ranks.
    if asked != "auto" or device.value == "cpu" or count < 2 or "LOCAL_RANK" in os.environ:
        return device
    needed = add_margin(count_bytes(folder, dtype, quantise))
    room, together = measure_room(device.value), measure_room(ALL)
    if needed <= room or needed > together:
        return device
    return Choice(
        ALL,
        f"auto: the model needs {needed / GIB:.1f} GiB, {device.value} has {room / GIB:.1f} GiB "
        f"free, {count} CUDA devices have {together / GIB:.1f} GiB together",
    )


def share_room() -> dict[int, int]:
    """Return the bytes of weights that each CUDA device can take, a part left for a batch."""
    import torch

    return {
        each: measure_room(f"cuda:{each}") * 8 // 9 for each in range(torch.cuda.device_count())
    }


def check_fit(folder: Path, device: str, dtype: str, quantise: str = "none") -> None:
    """Refuse a model that has no room on a device.

    Args:
        folder: A directory from :func:`stages.lm.model.resolve_model`.
        device: A device, or ``all``.
        dtype: One of :data:`stages.devices.DTYPES`.
        quantise: One of :data:`stages.lm.quantisation.QUANTISATIONS`.

    Raises:
        ModelError: It does not fit; the message says how much is missing and what would fit.
    """
    room = measure_room(device)
    if add_margin(count_bytes(folder, dtype, quantise)) > room:
        raise ModelError(describe_shortage(folder, device, dtype, quantise, room))


def describe_shortage(
    folder: Path, device: str, dtype: str, quantise: str, room: int | None = None
) -> str:
    """Say in one sentence what a model needs, what there is, and what would fit.

    Args:
        folder: A directory from :func:`stages.lm.model.resolve_model`.
        device: A device, or ``all``.
        dtype: One of :data:`stages.devices.DTYPES`.
        quantise: One of :data:`stages.lm.quantisation.QUANTISATIONS`.
        room: Bytes that are free on the device; None: they seemed enough and were not, since
            another process took them, or no cut through the model's layers suits the devices.
    """
    weights = count_bytes(folder, dtype, quantise)
    needed = add_margin(weights)
    kind = dtype if quantise == "none" else f"{dtype} with {quantise} weights"
    where = "the CUDA devices together" if device == ALL else device
    found = (
        "and its memory ran out while it was loaded"
        if room is None
        else f"{room / GIB:.2f} GiB are free, {(needed - room) / GIB:.2f} GiB are missing"
    )
    fitting = _find_fitting(folder, device, dtype, quantise, room or 0)
    return (
        f"{folder} does not fit on {where}: it needs {needed / GIB:.2f} GiB in {kind} "
        f"({weights / GIB:.2f} GiB of weights, the rest for a batch), {found}; "
        + (f"what would fit: {', '.join(fitting)}" if fitting else "use a smaller model")
    )


def _find_fitting(folder: Path, device: str, dtype: str, quantise: str, room: int) -> list[str]:
    import torch

    def need(dtype: str, quantise: str) -> int:
        return add_margin(count_bytes(folder, dtype, quantise))

    fitting = []
    if dtype == "float32" and need("bfloat16", quantise) <= room:
        fitting.append("--dtype bfloat16")
    if quantise == "none":
        try:
            small = need(dtype, "int8")
        except ModelError:  # not of a kind that can be quantised, so nothing to offer
            small = room + 1
        if small <= room:
            fitting.append("--quantise int8")
    if device not in (ALL, "cpu"):
        count = torch.cuda.device_count()
        together = measure_room(ALL)
        if count > 1 and "LOCAL_RANK" not in os.environ and need(dtype, quantise) <= together:
            fitting.append(
                f"--device all ({count} CUDA devices, {together / GIB:.1f} GiB free together)"
            )
    if device != "cpu" and quantise != "fp8":
        available = measure_room("cpu")
        if need(dtype, quantise) <= available:
            fitting.append(f"--device cpu ({available / GIB:.1f} GiB available)")
    return fitting


def _list_weights(folder: Path) -> list[Path]:
    """List the files that transformers reads; some directories hold a second copy beside them."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"cannot load a causal LM from {folder}: {index.name}: {error}") from error
    return [folder / str(name) for name in sorted(named)]


def _read_header(path: Path) -> list[tuple[str, int, int]]:
    """Return number format, elements and bytes of each tensor of a safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found = []
        for entry in header.values():
            elements = 1
            for extent in entry["shape"]:
                elements *= int(extent)
            begin, end = entry["data_offsets"]
            found.append((str(entry["dtype"]), elements, int(end) - int(begin)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"cannot load a causal LM from {path.parent}: {path.name}: {error}") from (
            error
        )
    return found


def _read_available(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass  # no Linux: what is free is not told there, what is built in is
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_group_rooms(root: Path) -> list[int]:
    """Return what each control group around this process leaves, of both versions."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return []
    rooms = []
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # A limit on any group above holds too; in a container the path may be the host's, and
        # only the top of it is there.
        inside = PurePosixPath(inner.lstrip("/"))
        for group in {base / inside, *(base / above for above in inside.parents)}:
            rooms += _read_group(group, *names)
    return rooms


def _read_group(group: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    try:
        most, used = ((group / name).read_text().strip() for name in (limit, usage))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except FileNotFoundError:  # the root group of version 2 has none of them
        return []
    if most == "max":
        return []
    # Pages of files count as used, and are given back when memory is asked for.
    return [max(int(most) - int(used) + int(stat.get(reclaimable, 0)), 0)]
