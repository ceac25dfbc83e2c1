"""What was probably meant by a name that is not known."""

import difflib
from collections.abc import Iterable


def suggest(word: object, known: Iterable[str]) -> str:
    """Return the nearest known name as a question, or the list of them, to end a message with."""
    names = list(known)
    if not names:
        return "; there are none"
    near = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else f"; known are {', '.join(names)}"
