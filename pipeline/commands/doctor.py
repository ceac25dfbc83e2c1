"""``pipeline doctor``: what is installed, which devices there are, and what `auto` would choose."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
def doctor() -> None:
    """Say what is installed, which devices there are, and what `auto` would choose and why.

    Example: pipeline doctor
    """
    import importlib.metadata
    import os
    import platform
    import shutil

    import torch

    from pipeline.console import quieten_libraries
    from stages.devices import choose_device, choose_dtype, choose_model

    quieten_libraries()
    click.echo(f"{'python':<14} {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "transformers", "accelerate", "safetensors", "zarr", "numpy", "dvc"):
        click.echo(f"{name:<14} {importlib.metadata.version(name)}")
    click.echo(f"{'cores':<14} {os.cpu_count()}, torch uses {torch.get_num_threads()}")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        click.echo(f"{f'cuda:{index}':<14} {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB")
    compiler = next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    click.echo(f"{'C++ compiler':<14} {compiler or 'none: torch.compile is not available'}")
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    click.echo(f"{'disk':<14} {disk:.1f} GiB free here")
    device = choose_device("auto")
    model = choose_model("auto", device.value)
    dtype = choose_dtype("auto", device.value)
    for title, choice in (("device", device), ("model", model), ("dtype", dtype)):
        click.echo(f"{title:<14} {choice.value} ({choice.reason})")
