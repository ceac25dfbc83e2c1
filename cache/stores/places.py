"""Where caches lie: a local directory, or a prefix in an object store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cache.errors import PlaceError
from cache.paths import expand_path
from cache.stores.claims import LocalClaims
from cache.stores.files import LocalFiles, make_directory, reporting
from cache.stores.interface import Claims, Files

CLAIMS = "claims"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class LocalPlace:
    """A directory, which need not exist."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> LocalPlace:
        return LocalPlace(self.path / name)

    @property
    def names(self) -> frozenset[str]:
        """The names that the directory has: a link's own, and its target's."""
        return frozenset((self.path.name, self.path.resolve().name))

    def prepare(self) -> None:
        """Make the directory and its missing parents."""
        make_directory(self.path)

    def list_places(self) -> list[LocalPlace]:
        """Return the directories in this one, by name; hidden ones are left out."""
        names = LocalFiles(self.path).names()
        with reporting("look into", self.path):
            return [
                LocalPlace(self.path / name)
                for name in names
                if not name.startswith(".") and (self.path / name).is_dir()
            ]

    def open_files(self) -> Files:
        """Return the files below."""
        return LocalFiles(self.path)

    def open_claims(self) -> Claims:
        """Return the claims on the cache that lies here."""
        return LocalClaims(self.path / CLAIMS)


@dataclass(frozen=True)
class ObjectPlace:
    """A prefix in a bucket."""

    url: str  # ``scheme://bucket/prefix``, without a slash at the end

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectPlace:
        return ObjectPlace(f"{self.url}/{name}")

    @property
    def names(self) -> frozenset[str]:
        """The last part of the prefix."""
        return frozenset((self.url.rsplit("/", 1)[-1],))

    def prepare(self) -> None:
        """Do nothing: a prefix needs no making."""

    def list_places(self) -> list[ObjectPlace]:
        """Return the prefixes directly below this one, by name; hidden ones are left out."""
        from cache.stores.bucket import open_bucket

        found = open_bucket(self.url).names(objects=False)
        return [self / name for name in found if not name.startswith(".")]

    def open_files(self) -> Files:
        """Return the objects below."""
        # Imported where it is needed: most caches are local, and the library is a large one.
        from cache.stores.bucket import open_bucket

        return open_bucket(self.url)

    def open_claims(self) -> Claims:
        """Return the claims on the cache that lies here."""
        from cache.stores.leases import LeasedClaims

        return LeasedClaims(f"{self.url}/{CLAIMS}")


Place = LocalPlace | ObjectPlace


def parse_place(text: str | Path | Place) -> Place:
    """Return the place that a path or a URL names, as :func:`cache.paths.expand_path` reads it.

    PlaceError: it names no place that a cache can lie in.
    """
    if isinstance(text, LocalPlace | ObjectPlace):
        return text
    if isinstance(text, Path) or "://" not in (text := expand_path(text, remote=True)):
        return LocalPlace(Path(text))
    parts = urlsplit(text)
    steps = parts.path.strip("/").split("/")
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise PlaceError(
            f"{text!r:.200} must be {parts.scheme}://bucket/prefix; credentials and endpoint "
            "belong into environment variables"
        )
    if any(step in (".", "..") for step in steps) or ("" in steps and steps != [""]):
        raise PlaceError(f"{text!r:.200} has an empty part, '.' or '..' in its prefix")
    return ObjectPlace(f"{parts.scheme}://{parts.netloc}/{'/'.join(steps)}".rstrip("/"))
