"""Whether torch.compile can work on this machine."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch


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
