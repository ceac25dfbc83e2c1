import json
from dataclasses import replace
from typing import Any

import pytest

from cache.errors import ManifestError, VersionError
from cache.format.documents import seal
from cache.format.layout import Column, Layout, answer_columns
from cache.format.manifest import LARGEST_MANIFEST, FileInfo, Manifest, check_attachment_name

LAYOUT = Layout(1000, 8, 64, answer_columns(2))


FILES = {
    path: FileInfo(3, "0" * 64)
    for path in ["attachments/a.json", "rows/zarr.json"]
    + [f"rows/{name}/zarr.json" for name in LAYOUT.columns]
}


INPUTS = {"model": "m", "seed": 2**64 - 1, "labels": {"pos": ["Good"]}, "bos": None, "é": "猫"}


def made(**changes: Any) -> Manifest:
    settings = {
        "label": "imdb",
        "inputs": INPUTS,
        "layout": LAYOUT,
        "notes": {"spread": 0.25},
        "files": FILES,
        "created": "2026-11-22T16:00:00+00:00",
    }
    return Manifest(**{**settings, **changes})


def test_every_flipped_byte_and_every_cut_is_refused() -> None:
    data = made(
        inputs={"a": 1},
        notes={},
        layout=replace(LAYOUT, columns={"x": Column("int8")}),
        files={
            "rows/zarr.json": FILES["rows/zarr.json"],
            "rows/x/zarr.json": FILES["rows/zarr.json"],
        },
    ).to_bytes()
    Manifest.from_bytes(data, "m")
    for place in range(len(data)):
        for flip in (0x01, 0x07, 0x20, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flip
            with pytest.raises(ManifestError):
                Manifest.from_bytes(bytes(changed), "m")
        with pytest.raises(ManifestError):
            Manifest.from_bytes(data[:place], "m")
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data + b"\n", "m")


def resealed(change: Any) -> bytes:
    """A manifest that someone edited and gave a fitting checksum."""
    document = json.loads(made().to_bytes())
    del document["checksum"]
    change(document)
    return seal(document)


def test_an_edited_manifest_with_a_fitting_checksum_is_refused() -> None:
    with pytest.raises(ManifestError, match="fingerprint"):
        Manifest.from_bytes(resealed(lambda d: d["inputs"].update(seed=3)), "m")


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_refused_by_name(version: int) -> None:
    with pytest.raises(VersionError, match=f"version {version} .*reads version 1"):
        Manifest.from_bytes(resealed(lambda d: d.update(format_version=version)), "m")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(extra=1),
        lambda d: d.pop("notes"),
        lambda d: d.update(format_version="1"),
        lambda d: d.update(format_version=True),
        lambda d: d.update(label=3),
        lambda d: d.update(label="x" * 10**6),
        lambda d: d.update(inputs=[]),
        lambda d: d.update(created="yesterday"),
        lambda d: d.update(fingerprint=None),
        lambda d: d["layout"].update(rows=-1),
        lambda d: d["layout"].update(rows=10**30),
        lambda d: d["layout"].update(rows="1000"),
        lambda d: d["layout"].update(rows=2**40, shard_rows=8),
        lambda d: d["layout"].update(chunk_rows=0),
        lambda d: d["layout"].update(shard_rows=63),
        lambda d: d["layout"].update(shard_rows=2**39),
        lambda d: d["layout"].update(columns={}),
        lambda d: d["layout"].update(columns=[]),
        lambda d: d["layout"]["columns"]["seed"].update(dtype="object"),
        lambda d: d["layout"]["columns"]["seed"].update(dtype=["int8"]),
        lambda d: d["layout"]["columns"]["seed"].update(shape=[2**31, 2**31]),
        lambda d: d["layout"]["columns"]["seed"].update(shape=[-1]),
        lambda d: d["layout"]["columns"]["seed"].update(shape=[1] * 40),
        lambda d: d["layout"]["columns"]["seed"].update(shape="2"),
        lambda d: d["layout"]["columns"]["seed"].update(fill=-1),
        lambda d: d["layout"]["columns"]["logits"].update(fill=1),
        lambda d: d["layout"]["columns"]["seed"].update(compressed=1),
        lambda d: d["layout"]["columns"].update({"../x": d["layout"]["columns"]["seed"]}),
        lambda d: d["layout"].update(columns={f"c{i}": d["layout"]["columns"]["seed"]
                                              for i in range(1000)}),
        lambda d: d["files"].update({"attachments/../../x": {"size": 1, "sha256": "0" * 64}}),
        lambda d: d["files"].update({"attachments//x": {"size": 1, "sha256": "0" * 64}}),
        lambda d: d["files"].update({"/etc/passwd": {"size": 1, "sha256": "0" * 64}}),
        lambda d: d["files"].update({"rows/../zarr.json": {"size": 1, "sha256": "0" * 64}}),
        lambda d: d["files"].update({"rows/no/zarr.json": {"size": 1, "sha256": "0" * 64}}),
        lambda d: d["files"].pop("rows/seed/zarr.json"),
        lambda d: d["files"]["rows/zarr.json"].update(size=-1),
        lambda d: d["files"]["rows/zarr.json"].update(size=2**60),
        lambda d: d["files"]["rows/zarr.json"].update(sha256="z" * 64),
        lambda d: d.update(files=3),
    ],
)  # fmt: skip
def test_a_hostile_manifest_ends_in_the_error(change: Any) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(resealed(change), "m")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b'{"format_version": 1e999}',
        b'{"format_version": NaN}',
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b'{"format_version": 1, "a": "\\ud800"}',
        b" " * (LARGEST_MANIFEST + 1),
        b"cos\nsystem\n(S'true'\ntR.",
    ],
)
def test_what_is_not_a_manifest_at_all_ends_in_the_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data, "m")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\\b", ".hidden", "a..b", "a\0", "é"]
)
def test_attachment_names_stay_in_their_directory(name: str) -> None:
    with pytest.raises(ManifestError, match="attachment name"):
        check_attachment_name(name)
