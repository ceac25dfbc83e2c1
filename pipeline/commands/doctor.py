"""``pipeline doctor``: what is installed, which devices there are, and what `auto` would choose."""

import click


@click.command()
def doctor() -> None:
    """Show versions and devices, and what auto would choose and why.

    Example: pipeline doctor
    """
    import importlib.metadata
    import os
    import platform

    import torch

    from pipeline.console import quieten_libraries
    from stages.devices import choose_device, choose_dtype, choose_model

    quieten_libraries()
    found = {"python": f"{platform.python_version()}, {platform.platform()}"}
    for name in ("torch", "transformers", "accelerate", "safetensors", "zarr", "numpy", "dvc"):
        found[name] = importlib.metadata.version(name)
    found["cores"] = f"{os.cpu_count()}, torch uses {torch.get_num_threads()}"
    for index in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        name = torch.cuda.get_device_name(index)
        found[f"cuda:{index}"] = f"{name}, {free:.1f} of {total:.1f} GiB"
    device = choose_device("auto")
    model, dtype = (choose("auto", device.value) for choose in (choose_model, choose_dtype))
    for title, choice in ("device", device), ("model", model), ("dtype", dtype):
        found[title] = f"{choice.value} ({choice.reason})"
    for title, text in found.items():
        click.echo(f"{title:<14} {text}")
