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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import nn

from stages.checkpoints import one_line
from stages.errors import ModelError
from stages.teacher.branches import Branches
from stages.teacher.forward import ForwardPass, FullPass, PackedPass, PrefixPass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGE = 64.0
"""Times the size of other rows: what leaks out of such a row is seen."""

LIMITS = {torch.float32: 300.0, torch.bfloat16: 1.0, torch.float16: 2.0}
"""How far the logits of two ways may lie apart, in what rounding costs.

In bfloat16 right ways lie below 0.8 and faults above 1.1; in float32 near 1 and above 10,000, where
the room is for kernels that add in another order.
"""
TURNS = {torch.float32: 1, torch.bfloat16: 6, torch.float16: 6}
"""How often a way is compared: what all turns have in common is no rounding."""

Make = Callable[[torch.Tensor], ForwardPass]  # takes the prompt, (1, P, d_T)
Run = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""Takes inputs, for each length of shape (B, T, d_T), returns logits, shape (all B, words)."""


class Rounding:
    """How logits move when every number of some inputs goes to one of its two neighbours.

    The step itself is small, but behind it every rounding falls anew.  It needs no memory, while a
    float32 copy of a large model does not fit beside it, and it shows rounding on all devices.
    """

    def __init__(self, run: Run, inputs: Sequence[torch.Tensor]) -> None:
        self._dtype = inputs[0].dtype
        turns = range(max(2, TURNS[self._dtype]))
        self._inputs = [[_move(part, turn) for part in inputs] for turn in turns]
        self._wanted = torch.stack([run(moved).float() for moved in self._inputs])
        cost = (self._wanted[1:] - self._wanted[0]).square().mean(dim=(0, 2)).sqrt()
        # A few draws may miss what a row costs, so it is no less than other rows'; and where no
        # rounding is seen at all it is the last bit of the logits.
        cost = torch.maximum(cost, cost.median())
        last = self._wanted[0].abs().amax(dim=1) * torch.finfo(torch.float32).eps
        self._cost = torch.maximum(cost, last).clamp(min=torch.finfo(torch.float32).tiny)

    def compare(self, run: Run) -> str:
        """Say by how much the logits of another way are off; empty where that is rounding."""
        apart = [
            run(self._inputs[turn]).float() - self._wanted[turn]
            for turn in range(TURNS[self._dtype])
        ]
        off = torch.stack(apart).mean(dim=0)
        times = off.square().mean(dim=1).sqrt() / self._cost
        ratio = float(times.square().mean().sqrt())
        if ratio <= LIMITS[self._dtype]:
            return ""
        cost = f"what rounding to {self._dtype} costs".replace("torch.", "")
        return f"logits are off by {float(off.abs().max()):.2g}, {ratio:,.2g} times {cost}"


def _move(part: torch.Tensor, turn: int) -> torch.Tensor:
    """Move every number to a neighbour, another one in every turn; in turn 0 to none."""
    if not turn:
        return part
    generator = torch.Generator().manual_seed(turn)
    signs = torch.randint(2, part.shape, generator=generator, dtype=torch.int8) * 2 - 1
    return part + part * (signs.to(part) * (torch.finfo(part.dtype).eps / 2))


def find_passes(
    model: PreTrainedModel,
    prefix: torch.Tensor,
    suffix: torch.Tensor,
    table: torch.Tensor,
    longest: int,
    branches: Branches | None = None,
) -> tuple[list[ForwardPass], list[str]]:
    """Return the ways that answer as a plain forward pass does, and why no other one can.

    At most one that packs rows, and then one for rows of one length; before one is used it is to
    be entered.  ``prefix``, shape (1, P, d_T), and ``suffix``, shape (1, S, d_T), stand around
    every input, ``branches`` behind it, of which a few are tried.  Rows to try, of up to
    ``longest`` tokens, are taken from ``table``, shape (V, d_T).
    """
    probe: list[torch.Tensor] = []
    # Not of the smallest common multiple, so that no reshaping of one into the other fits.
    for count, length in ((2, 1), (3, 3), (8, 5), (1, longest)):
        begin = sum(part.shape[:2].numel() for part in probe)
        ids = torch.arange(begin, begin + count * length, device=table.device) % len(table)
        rows = table[ids].view(count, length, -1)
        probe.append(torch.cat([rows, suffix.expand(count, -1, -1)], dim=1))
    branches = branches and branches.thin()
    around = [prefix] if branches is None else [prefix, branches.embeddings]
    found: list[ForwardPass] = []
    reasons: list[str] = []

    def read(make: Make, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        # What stands around the rows moves with them: how it is rounded is no fault either.
        way, moved = make(inputs[0]), branches and replace(branches, embeddings=inputs[1])
        try:
            return read_everywhere(way, moved, inputs[len(around) :])
        finally:
            way.leave()

    plain = partial(FullPass, model)
    rounding = Rounding(partial(read, plain), [*around, *probe])

    def is_right(name: str, make: Make) -> bool:
        way: ForwardPass = plain(prefix)
        try:
            fault = rounding.compare(partial(read, make))
            way = make(prefix)
            if not fault and way.mixes_lengths and not keeps_rows_apart(way, probe, branches):
                fault = "rows are not kept apart"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family's code does with what it does not expect
            fault = one_line(error)
        way.leave()
        if fault:
            reasons.append(f"{name}: {fault}")
        else:
            found.append(way)
        return not fault

    trim = "running the last layer for last positions only"
    if not is_right(trim, lambda prompt: PackedPass(model, prompt, find_layers(model)[-1])):
        is_right("packing rows side by side", lambda prompt: PackedPass(model, prompt, None))
    copying = "reusing the prompt's keys and values"
    if not prefix.shape[1] or not is_right(copying, partial(PrefixPass, model)):
        found.append(plain(prefix))
    return found, reasons


def read_everywhere(
    way: ForwardPass, branches: Branches | None, inputs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return all logits that are read behind rows, in branches too, shape (all B, logits)."""
    return way.run(inputs) if branches is None else way.run_branches(inputs, branches)[0].flatten(1)


def keeps_rows_apart(
    way: ForwardPass, inputs: Sequence[torch.Tensor], branches: Branches | None = None
) -> bool:
    """Whether no row's answer depends on its neighbours.

    Every other row is made NaN: what a model mixes between positions outside attention (a state
    space, a convolution, a mean) becomes NaN too.  A kernel may also multiply what one row has left
    in its memory by 0 for the next; where NaN is seen, large finite rows decide, which may change
    no bit of others.
    """
    run = partial(read_everywhere, way, branches)
    wanted = run(inputs)

    def answer_others(factor: float, turn: int) -> torch.Tensor:
        marked, begin = [], turn
        for part in inputs:
            spoilt = torch.arange(begin, begin + len(part), device=part.device) % 2 == 0
            marked.append(torch.where(spoilt.view(-1, 1, 1), factor * part, part))
            begin += len(part)
        return run(marked)[1 - turn :: 2]

    return all(answer_others(torch.nan, turn).isfinite().all() for turn in range(2)) or all(
        torch.equal(answer_others(-LARGE, turn), wanted[1 - turn :: 2]) for turn in range(2)
    )


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
        most = room - around
        raise ModelError(
            f"{what} are {around + longest} positions, the model has {room}; "
            + (f"set max_length to at most {most}" if most > 0 else "shorten the prompt")
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
