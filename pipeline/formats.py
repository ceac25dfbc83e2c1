"""Numbers as people read them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Return a time as hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def format_size(count: int) -> str:
    """Return a number of bytes in MiB, or in GiB from a thousand of those."""
    return f"{count / 2**30:,.1f} GiB" if count >= 1000 * 2**20 else f"{count / 2**20:,.1f} MiB"
