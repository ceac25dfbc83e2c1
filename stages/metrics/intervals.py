"""How far a share that was counted may be from the true one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.errors import SettingError

Z = 1.959963984540054
"""Standard deviations of 95 % of a normal distribution."""


@dataclass(frozen=True)
class Share:
    """A share of so many rows, with the ends of its 95 % interval."""

    rows: int
    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    def to_record(self) -> dict[str, Any]:
        """Return it as it stands in a student's record."""
        return {"rows": self.rows, "agreement": self.value, "interval": self.interval}

    def __str__(self) -> str:
        return f"{self.value:.1%} ({100 * self.low:.1f}-{100 * self.high:.1f})"


def read_share(record: Mapping[str, Any] | None) -> Share | None:
    """Read what :meth:`Share.to_record` wrote."""
    if not record:
        return None
    return Share(int(record["rows"]), float(record["agreement"]), *map(float, record["interval"]))


def count_share(hits: float, rows: int) -> Share:
    """Return a share with Wilson's 95 % interval, which 0 and 1 have too, or raise SettingError."""
    if rows < 1 or not 0 <= hits <= rows:
        raise SettingError(f"share: got {hits:g} of {rows} rows")
    value = hits / rows
    scale = 1 + Z * Z / rows
    centre = (value + Z * Z / (2 * rows)) / scale
    half = Z / scale * math.sqrt(value * (1 - value) / rows + Z * Z / (4 * rows * rows))
    # At 0 and 1 rounding may leave the interval a hair inside of the share.
    low, high = min(value, centre - half), max(value, centre + half)
    return Share(rows, value, max(0.0, low), min(1.0, high))
