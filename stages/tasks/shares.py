"""The shares that a task's classes are to have where a teacher's prior is taken off its answers."""

import difflib
import math
import re
from collections.abc import Sequence

from stages.errors import SettingError

AUTO, BALANCED, NONE = "auto", "balanced", "none"


def parse_shares(asked: str, labels: Sequence[str]) -> tuple[float, ...] | None:
    """Return the wanted shares, in the labels' order; None where no prior is to be taken off.

    Raises:
        SettingError: It is not ``auto``, ``balanced``, ``none`` or a positive share for each label.
    """
    if asked == NONE:
        return None
    if asked in (AUTO, BALANCED):
        return (1 / len(labels),) * len(labels)
    found, between = dict[str, float](), ","
    if "," in "".join(labels):
        between = ",(?=" + "|".join(rf"\s*{re.escape(label)}\s*=" for label in labels) + ")"
    for part in re.split(between, asked):
        name, equals, share = (piece.strip() for piece in part.rpartition("="))
        if not equals or name not in labels or name in found:
            near = difflib.get_close_matches(name or share, labels, 1)
            hint = f"; did you mean {near[0]}?" if near and name not in found else ""
            raise SettingError(
                f"prior: got {part.strip()!r} in {asked!r}, must be {AUTO}, {BALANCED}, {NONE}, or "
                f"one share for each of {', '.join(labels)}, as in {labels[0]}=0.4,…{hint}"
            )
        try:
            found[name] = float(share)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] <= 1:
            raise SettingError(f"prior: got {share!r} for {name}, must be in (0, 1]")
    if missing := [name for name in labels if name not in found]:
        raise SettingError(f"prior: {asked!r} has no share for {', '.join(missing)}")
    total = sum(found.values())
    if abs(total - 1) > 1e-3:
        raise SettingError(f"prior: the shares in {asked!r} sum to {total:g}, must sum to 1")
    return tuple(found[name] / total for name in labels)
