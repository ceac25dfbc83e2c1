"""``params.yaml`` in the working directory: the defaults that a flag on the command line overrides.

A section for each command, below one key of our own, holds its options by name, dashes as
underscores.  So ``dvc repro`` and a command typed by hand agree.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cache.suggestion import suggest
from stages.errors import SettingError

FILE = Path("params.yaml")
KEY = "functional_projection"
FOR_DVC = ("tasks", "archs")  # for dvc.yaml alone


class Command(click.Command):
    """A command whose options have their defaults in ``params.yaml``; its help reads no file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what was typed, and take the rest from the file."""
        if not {"-h", "--help"}.intersection(args):
            commands = getattr(ctx.parent and ctx.parent.command, "commands", {})
            ctx.default_map = read_params(ctx.info_name or "", commands)
        return super().parse_args(ctx, args)


def read_params(name: str, commands: Mapping[str, click.Command]) -> dict[str, Any]:
    """Read a command's defaults by its parameters' names, as they would be typed.

    Empty where there is no file, or nothing in it is meant for this command.  SettingError: what is
    ours in the file is not as it must be; the message names the key.
    """
    try:
        if not FILE.is_file():
            return {}
        with FILE.open("rb") as file:
            # Of any encoding: whether it is ours, and for whom, shows before it is parsed.
            text = file.read(2**24).replace(b"\0", b"").decode("utf-8", "replace")
    except OSError as error:
        warning = click.style("warning:", fg="yellow")
        fault = f"cannot read {FILE}: {error.strerror}; the defaults are those built in"
        click.echo(f"{warning} {fault}", err=True)
        return {}
    is_named = re.search(rf"(?m)(^|[{{,])[ \t]*[\"']?{name}[\"']?[ \t]*:", text) is not None
    if name == "tag" and not is_named:
        return {}  # it runs anywhere, beside files that only the others need
    from stages.yaml_files import read_yaml

    known = {key: _list_options(it) for key, it in commands.items() if isinstance(it, Command)}
    try:
        sections = (read_yaml(FILE, "", SettingError, KEY) if KEY in text else None) or {}
    except SettingError:
        if is_named:
            raise
        return {}
    if not isinstance(sections, dict):
        raise SettingError(f"{FILE}: {KEY} must map commands to options")
    if unknown := [section for section in sections if section not in (*known, *FOR_DVC)]:
        fault = f"unknown section {unknown[0]!r:.80}{suggest(unknown[0], (*known, *FOR_DVC))}"
        raise SettingError(f"{FILE}: {KEY}: {fault}")
    if name not in sections:
        return {}
    # All are checked, so that what is wrong with the student's shows before the teacher's hours.
    ours = sections.keys() & known.keys()
    return {key: _type_values(key, sections[key], known[key]) for key in sorted(ours)}[name]


def _list_options(command: click.Command) -> dict[str, click.Option]:
    # By the names that are typed: the parameter of "--from" cannot be named so in Python.
    return {
        max(option.opts, key=len).lstrip("-").replace("-", "_"): option
        for option in command.params
        if isinstance(option, click.Option) and option.name
    }


def _type_values(section: str, values: Any, options: Mapping[str, click.Option]) -> dict[str, Any]:
    """Return what would be typed, so that each option's own type judges it."""
    if not isinstance(values, dict | None):
        raise SettingError(f"{FILE}: {section} must map options to values")
    typed: dict[str, Any] = {}
    for key, value in (values or {}).items():
        if key not in options:
            fault = f"unknown option {key!r:.80}{suggest(key, options)}"
            raise SettingError(f"{FILE}: {section}: {fault}")
        if value is None:
            continue
        option = options[key]
        given = value if isinstance(value, list) and option.multiple else [value]
        if not all(isinstance(each, str) for each in given):
            raise SettingError(f"{FILE}: {section}: {key} must be a single value")
        typed[option.name or ""] = given if option.multiple else value
    return typed
