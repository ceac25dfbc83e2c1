"""Options that several commands share."""

from __future__ import annotations

import click

CACHE = click.option(
    "--cache",
    default="data/cache",
    show_default=True,
    metavar="ROOT",
    help="Where caches lie: a directory, or s3://bucket/prefix.",
)
