"""Options that several commands share."""

from __future__ import annotations

from typing import Any

import click


class AutoCount(click.ParamType[int | None]):
    """``auto``, which is None, or a whole number from 1."""

    name = "auto or integer"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number, or None."""
        if value == "auto":
            return None
        return click.IntRange(min=1).convert(value, param, ctx)


CACHE = click.option(
    "--cache",
    default="data/cache",
    show_default=True,
    metavar="ROOT",
    help="Where caches lie: a directory, or s3://bucket/prefix.",
)

CHAT = click.option(
    "--chat", is_flag=True, help="Put the teacher's prompt through the model's chat template."
)
QUANTISE = click.option(
    "--quantise",
    type=click.Choice(("none", "int8", "fp8")),
    default="none",
    show_default=True,
    help="The teacher's weights; int8 and fp8 need the extra 'quantised'.",
)
