"""TODO."""

from cache.stores.files import TEMPORARY, LocalFiles, reporting
from cache.stores.interface import Claim, Files, LiveClaim
from cache.stores.places import CLAIMS, LocalPlace, Place, parse_place

__all__ = [
    "CLAIMS",
    "TEMPORARY",
    "Claim",
    "Files",
    "LiveClaim",
    "LocalFiles",
    "LocalPlace",
    "Place",
    "parse_place",
    "reporting",
]
