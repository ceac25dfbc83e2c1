"""CUDA devices that are not there."""

from __future__ import annotations

import pytest
import torch

GIB = 2**30


def pretend_gpus(
    monkeypatch: pytest.MonkeyPatch,
    free: tuple[float, ...] = (1,),
    total: float = 80,
    bf16: bool = True,
    capability: tuple[int, int] = (9, 0),
) -> None:
    """Let torch see one CUDA device for each entry of ``free``; sizes in GiB.

    Without ``bf16`` the device still emulates it, which torch counts unless it is told not to.
    """

    def tell(device: object = None) -> tuple[int, int]:
        index = device if isinstance(device, int) else torch.device(str(device)).index or 0
        return int(free[index] * GIB), int(total * GIB)

    def supports(including_emulation: bool = True) -> bool:
        return bf16 or including_emulation

    for name, value in {
        "is_available": True,
        "get_device_name": "Some GPU",
        "device_count": len(free),
        "get_device_capability": capability,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", tell)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports)
