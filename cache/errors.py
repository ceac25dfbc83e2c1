"""Typed errors of the cache; only the command line turns them into messages."""


class CacheError(Exception):
    """Anything the cache refuses or cannot do, as one sentence for the person who ran it."""


class ManifestError(CacheError):
    """A manifest cannot be made from what was given, or a file is not a manifest."""


class VersionError(ManifestError):
    """A cache was written in another version of the format."""


class ForeignError(ManifestError):
    """A manifest is a sound one, but of another cache than the one asked for."""


class StorageError(CacheError):
    """The storage refused an operation (no space, no permission, no such bucket)."""


class PlaceError(CacheError):
    """A path or URL names nothing that a cache can lie in."""


class ClaimError(CacheError):
    """A shard or a cache was to be changed without the right to it, or while someone has it."""


class LostClaimError(ClaimError):
    """A claim was lost before its shard was committed: nothing counts, and someone may redo it."""


class ColumnsError(CacheError):
    """The columns of a shard have not the names, shapes or dtypes of the layout."""


class NonFiniteError(CacheError):
    """A value to be committed is NaN or infinite.

    Attributes:
        shard: Number of the shard, of which nothing was written.
        row: Index of the first such row in the whole cache.
        column: Name of the column.
    """

    def __init__(self, message: str, shard: int = -1, row: int = -1, column: str = "") -> None:
        super().__init__(message)
        self.shard = shard
        self.row = row
        self.column = column


class IncompleteError(CacheError):
    """Some shards are not committed yet and the reader was not told to do without them."""


class DamageError(CacheError):
    """A file of the cache is missing, short, changed or of another cache.

    Attributes:
        shard: Number of the shard, or None where the file belongs to the cache as a whole.
        file: Path of the file inside the cache directory, with forward slashes.
    """

    def __init__(self, message: str, shard: int | None = None, file: str = "") -> None:
        super().__init__(message)
        self.shard = shard
        self.file = file


class SamplerError(CacheError):
    """Seeds, a sampler or a rule for lengths cannot be had as asked for."""


class CacheChoiceError(CacheError):
    """No cache fits what was asked for, or several do; the message lists what there is."""

    usage = True
