"""``params.yaml`` in the working directory: the defaults that a flag on the command line overrides.

A command's section is named after it and holds its options by name, dashes as underscores, so that
``dvc repro`` and a command typed by hand agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cache.suggestion import suggest

FILE = Path("params.yaml")
OTHER_SECTIONS = ("pipeline",)  # for dvc.yaml alone


def read_params(group: click.Group) -> dict[str, Any]:
    """Read the commands' defaults, in click's form; empty where there is no file.

    Raises:
        click.UsageError: The file is not as it must be; the message names the key.
    """
    try:
        text = FILE.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read {FILE}: {error}") from error
    import yaml

    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise click.UsageError(f"{FILE} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise click.UsageError(f"{FILE} must map commands to options")
    defaults: dict[str, Any] = {}
    for section, values in data.items():
        if section in OTHER_SECTIONS:
            continue
        command = group.commands.get(section)
        if command is None:
            known = (*group.commands, *OTHER_SECTIONS)
            raise click.UsageError(f"{FILE}: unknown section {section!r}{suggest(section, known)}")
        if not isinstance(values, dict):
            raise click.UsageError(f"{FILE}: {section} must map options to values")
        # By the names that are typed: the parameter of "--from" cannot be named so in Python.
        options = {
            max(option.opts, key=len).lstrip("-").replace("-", "_"): option
            for option in command.params
            if isinstance(option, click.Option) and option.name
        }
        defaults[section] = {}
        for key, value in values.items():
            if key not in options:
                raise click.UsageError(
                    f"{FILE}: {section}: unknown option {key!r}{suggest(key, options)}"
                )
            option = options[key]
            given = value if isinstance(value, list) and option.multiple else [value]
            if any(isinstance(each, list | dict) for each in given):
                raise click.UsageError(f"{FILE}: {section}: {key} must be a single value")
            if value is not None:
                # As typed, so that the option's own type judges it: int() would cut 1.5 to 1.
                typed = [str(each) for each in given]
                defaults[section][option.name] = typed if option.multiple else typed[0]
    return defaults
