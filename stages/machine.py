"""What something was measured with: versions and hardware, never the name of a machine."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch


def describe_machine(device: str) -> dict[str, Any]:
    """Return versions of Python and its libraries, the device's processor and the threads used."""
    import numpy
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
