"""Where a cache lies: a local directory or an object store, and the right to write a shard.

Gives ``parse_place``, and one interface over both kinds: put-if-absent, claims, leases.  Knows
paths and bytes, not what is in them.
"""

from cache.stores.files import TEMPORARY, LocalFiles, reporting, sync
from cache.stores.interface import Claim, Files, LiveClaim
from cache.stores.places import CLAIMS, LocalPlace, Place, parse_place
