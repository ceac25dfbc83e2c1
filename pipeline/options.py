"""Options that several commands share."""

from __future__ import annotations

import math
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


class SamplerMixture(click.ParamType[str]):
    """A sampler's name, or several with shares; what the shares must be is checked when used."""

    name = "sampler"
    known = ("unigram", "vocabulary", "uniform", "self", "self-labelled")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it was given."""
        for part in str(value).split(","):
            name = part.partition("=")[0].strip()
            if name not in self.known:
                self.fail(f"{name!r} is none of {', '.join(map(repr, self.known))}", param, ctx)
        return str(value)


class Share(click.ParamType[float]):
    """A number from 0 to 1."""

    name = "0 to 1"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 1:
            self.fail(f"got {value}, must be in [0, 1]", param, ctx)
        return number


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
