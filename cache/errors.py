"""Typed errors of the cache; only the command line turns them into messages."""

from collections.abc import Sequence
from enum import Enum


class Hint(Enum):
    """What a person can do about an error; only the command line knows the command for it."""

    VERIFY = "check the cache"
    FILL = "compute what is missing"
    FILL_OR_PARTIAL = "compute what is missing, or do with what is there"
    CREATE = "compute a cache of the task"
    CHOOSE = "name one of the caches"


class CacheError(Exception):
    """Anything the cache refuses or cannot do, as one sentence for the person who ran it.

    ``hint`` is what helps, ``subject`` what that is done to: a cache, or the name of a task.
    """

    def __init__(self, message: str, hint: Hint | None = None, subject: object = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.subject = str(subject)


class ManifestError(CacheError):
    """A manifest cannot be made from what was given, or a file is not a manifest."""


class VersionError(CacheError):
    """A cache was written in another version of the format."""


class ForeignError(ManifestError):
    """A manifest is a sound one, but of another cache than the one asked for."""


class StorageError(CacheError):
    """The storage refused an operation (no space, no permission, no such bucket)."""


class PlaceError(CacheError):
    """A path or URL names nothing that a file or a cache can lie in."""


class ClaimError(CacheError):
    """A shard or a cache was to be changed without the right to it, or while someone has it."""


class LostClaimError(ClaimError):
    """A right was lost before what it was for was done: nothing counts, and someone may redo it."""

    @classmethod
    def lapsed(cls, place: object, done: str) -> "LostClaimError":
        """Return the error for a right that lapsed while its holder could not renew it."""
        return cls(
            f"{place} was {done}: this process was suspended, or cut off from it, until its right "
            "to do so lapsed; run the same command again"
        )


class ColumnsError(CacheError):
    """The columns of a shard have not the names, shapes or dtypes of the layout."""


class NonFiniteError(CacheError):
    """A value is NaN or infinite; nothing was written."""


class IncompleteError(CacheError):
    """Some shards are not committed yet and the reader was not told to do without them."""


class DamageError(CacheError):
    """``fault`` is wrong with ``file``, of a shard or (None) of the cache as a whole."""

    def __init__(self, place: object, file: str, fault: str, shard: int | None = None) -> None:
        where = "" if shard is None else f"shard {shard}: "
        super().__init__(f"{where}{place}/{file}: {fault}", Hint.VERIFY, place)
        self.fault = fault


class SamplerError(CacheError):
    """Seeds, a sampler or a rule for lengths cannot be had as asked for."""


class CacheChoiceError(CacheError):
    """No cache fits what was asked for, or several do; the message lists what there is."""

    usage = True


class TaskChoiceError(CacheChoiceError):
    """Nobody named a task, and one of ``tasks`` could be meant, if there are any."""

    def __init__(self, message: str, root: object, tasks: Sequence[str]) -> None:
        super().__init__(message)
        self.root, self.tasks = str(root), tasks
