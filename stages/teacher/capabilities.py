"""What a model and a machine are capable of, tried or looked up when the model is loaded.

A family may keep anything in its attention or its cache, so no way to run it is believed: each is
tried on a few rows, against a plain forward pass over prompt, input and suffix.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import nn

from stages.errors import ModelError
from stages.teacher.forward import ForwardPass, FullPass, PackedPass, PrefixPass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""How far two ways' logits may lie apart by rounding alone."""


def choose_pass(
    model: PreTrainedModel,
    prefix: torch.Tensor,
    suffix: torch.Tensor,
    table: torch.Tensor,
    longest: int,
) -> tuple[ForwardPass, list[str]]:
    """Return the best way that answers as a plain forward pass does, and why no better one can.

    The model's output layer is cut down to the label words; ``prefix``, shape (1, P, d_T), and
    ``suffix``, shape (1, S, d_T), stand around every input.  Rows to try, of up to ``longest``
    tokens, are taken from ``table``, shape (V, d_T).
    """
    probe = []
    # Not of the smallest common multiple, so that no reshaping of one into the other fits.
    for count, length in ((2, 1), (3, 3), (1, longest)):
        ids = torch.arange(count * length, device=table.device) % len(table)
        rows = table[ids].view(count, length, -1)
        probe.append(torch.cat([rows, suffix.expand(count, -1, -1)], dim=1))
    plain = FullPass(model, prefix)
    wanted = plain.run(probe)
    reasons: list[str] = []
    trim = "running the last layer for last positions only"
    ways: dict[str, Callable[[], ForwardPass]] = {
        trim: lambda: PackedPass(model, prefix, find_layers(model)[-1]),
        "packing rows side by side": lambda: PackedPass(model, prefix, None),
    }
    if prefix.shape[1]:
        ways["reusing the prompt's keys and values"] = lambda: PrefixPass(model, prefix)
    for name, make in ways.items():
        way: ForwardPass | None = None
        try:
            way = make()
            apart = (way.run(probe).float() - wanted.float()).abs().max().item()
            fault = f"logits are off by {apart:.2g}" if not apart <= TOLERANCE[table.dtype] else ""
            if not fault and isinstance(way, PackedPass) and not keeps_rows_apart(way, probe):
                fault = "rows are not kept apart"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family's code does with what it does not expect
            fault = shorten_error(error)
        if way is not None and not fault:
            return way, reasons
        if isinstance(way, PackedPass):
            way.undo()
        reasons.append(f"{name}: {fault}")
    return plain, reasons


def keeps_rows_apart(way: ForwardPass, inputs: Sequence[torch.Tensor]) -> bool:
    """Whether no row's answer depends on its neighbours.

    A row of NaN is put at either end: whatever a model mixes between positions outside attention
    (a state space, a convolution, a mean), however little, becomes NaN too.  No rounding hides it.
    """
    rows = sum(len(part) for part in inputs)
    for spoilt in (0, rows - 1):
        marked = [part.clone() for part in inputs]
        marked[0 if spoilt == 0 else -1][0 if spoilt == 0 else -1] = torch.nan
        others = [row for row in range(rows) if row != spoilt]
        if not way.run(marked)[others].isfinite().all():
            return False
    return True


def find_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a decoder in their order: the first list of as many modules."""
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of its {count} layers")
    return list(lists[0])


def check_room(model: PreTrainedModel, what: str, around: int, longest: int) -> None:
    """Refuse what needs more positions than a model has: a text of ``longest`` and those around."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and around + longest > room:
        raise ModelError(
            f"{what} are {around + longest} positions, the model has {room}; set max_length to at "
            f"most {room - around}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left; a CPU's has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def refuse_out_of_memory(error: BaseException, device: object, what: str) -> NoReturn:
    """Raise a ModelError where a device has no memory for ``what``, any other error as it is."""
    if not is_out_of_memory(error):
        raise error
    raise ModelError(
        f"{device} has no memory for {what}; use a smaller model, quantise its weights, or set a "
        "shorter max_length"
    ) from error


def shorten_error(error: BaseException) -> str:
    """Return in one line what a family's own code says of what it does not expect."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@functools.cache
def compiler_problem(device_type: str) -> str:
    """Return why torch.compile cannot work for a kind of device, or an empty string."""
    if device_type not in ("cpu", "cuda"):
        return f"no compiled kernel for {device_type}"
    variable, usual = ("CC", "gcc clang") if device_type == "cuda" else ("CXX", "g++")
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        return "no compiled kernel: triton is not installed"
    # The variable may hold arguments as well, the usual names are alternatives.
    names = os.environ[variable].split()[:1] if os.environ.get(variable) else usual.split()
    if not any(shutil.which(name) for name in names):
        return f"no compiled kernel: no compiler ({' or '.join(names)}) was found"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no compiled kernel: Python's header files are not installed"
    if " " in torch.__file__:
        # torch hands its own folder to the compiler unquoted.
        return "no compiled kernel: torch is installed in a folder with a space in its path"
    return ""
