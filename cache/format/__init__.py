"""What a cache is made of: layout, manifest and fingerprint, shards, commit records.

Bytes in, checked values out, and back.  Knows no storage.
"""

from cache.format.commits import (
    DIRECTORY,
    LARGEST_RECORD,
    CommitRecord,
    committed_shards,
    record_path,
)
from cache.format.documents import DocumentError, check_seal, parse, seal
from cache.format.layout import Layout, answer_columns
from cache.format.manifest import (
    ATTACHMENTS,
    LARGEST_MANIFEST,
    MANIFEST,
    FileInfo,
    Manifest,
    check_attachment_name,
)
from cache.format.shards import GROUP, decode, encode, metadata, object_path
