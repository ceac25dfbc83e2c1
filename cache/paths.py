"""What a person typed for a path: which file, directory or prefix of an object store it names.

The one place that decides it.  A student in use needs it, so nothing heavy is imported.
"""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cache.errors import PlaceError

SCHEMES = ("s3", "gs", "az")

# A file's name may hold a colon, but hardly one that a slash follows at once.
_URL = re.compile(r"(?i)\s*([a-z][a-z0-9+.-]+):[/\\]|\s*(s3|gs|az|file|https?):")
_WINDOWS = re.compile(r"[A-Za-z]:([/\\]|$)|\.{0,2}\\")


def expand_path(text: str, remote: bool = False) -> str:
    """Return what a person typed for a path, with ``~``, ``~user`` and ``file://`` replaced.

    Anything else, such as a hub id, may be a path and stays as it is; so does a URL of an object
    store, where such will do (``remote``).  PlaceError: it can be meant for no path, or for one
    elsewhere.
    """
    shown = f"{text!r:.200}"
    if not text.strip() or "\0" in text:
        what = shown if text.strip() else "an empty name"
        raise PlaceError(f"{what} names no file, directory or cache")
    if found := _URL.match(text):
        return _expand_url(text, (found[1] or found[2]).lower(), remote)
    if _WINDOWS.match(text):
        raise PlaceError(f"{shown} is a path of Windows; in WSL the drive C: is /mnt/c")
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        home = text.partition("/")[0]
        raise PlaceError(
            f"{shown}: there is no home directory {home}, or write ./{home}"
        ) from error


def _expand_url(text: str, scheme: str, remote: bool) -> str:
    shown = f"{text!r:.200}"
    if not text.lower().startswith(f"{scheme}://"):
        where = f"{scheme}://{'/path' if scheme == 'file' else 'bucket/prefix'}"
        raise PlaceError(f"{shown} is mistyped: a URL is {where}, and a local path begins with ./")
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path or "%00" in parts.path:
            raise PlaceError(f"{shown} must be file:///path, of this machine")
        return unquote(parts.path)
    if not remote:
        raise PlaceError(f"{shown} is a URL; this must be a local path")
    if scheme not in SCHEMES:
        stores = ", ".join(f"{each}://" for each in SCHEMES)
        raise PlaceError(f"{shown} begins with none of {stores}; a path needs no prefix")
    return text
