import hashlib
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64) + 1, 2**64 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(max_size=5), values, max_size=4)


def shuffle(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: shuffle(item, chance) for key, item in items}
    return [shuffle(item, chance) for item in value] if isinstance(value, list) else value


def same(one: Any, other: Any) -> bool:
    """Equality that tells True from 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(mappings, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_the_fingerprint(
    inputs: dict[str, Any], chance: random.Random
) -> None:
    assert made(inputs=shuffle(inputs, chance)).fingerprint == made(inputs=inputs).fingerprint


@given(mappings, mappings)
def test_different_inputs_have_different_fingerprints(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    prints = made(inputs=one).fingerprint, made(inputs=other).fingerprint
    assert (prints[0] == prints[1]) == same(one, other)


@given(mappings)
def test_what_is_written_is_read_back(inputs: dict[str, Any]) -> None:
    manifest = made(inputs=inputs)
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data, "m")
    assert again == manifest
    assert again.to_bytes() == data


@pytest.mark.parametrize(
    "layout",
    [
        replace(LAYOUT, rows=1001),
        replace(LAYOUT, chunk_rows=16),
        replace(LAYOUT, shard_rows=128),
        replace(LAYOUT, columns=answer_columns(3)),
        replace(LAYOUT, columns=answer_columns(2, tokens=9)),
        replace(LAYOUT, columns={**LAYOUT.columns, "seed": Column("int64")}),
        replace(LAYOUT, columns={**LAYOUT.columns, "seed": Column("uint64", fill=1)}),
        replace(LAYOUT, columns={**LAYOUT.columns, "seed": Column("uint64", compressed=True)}),
    ],
)
def test_the_layout_is_part_of_the_fingerprint(layout: Layout) -> None:
    assert made(layout=layout).fingerprint != made().fingerprint


def test_label_notes_files_and_time_are_not_part_of_the_fingerprint() -> None:
    other = made(label="x", notes={}, files={}, created="2020-01-01")
    assert other.fingerprint == made().fingerprint


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    column = '{"compressed":false,"dtype":"%s","fill":0,"shape":[%s]}'
    text = (
        '{"format_version":1,"inputs":{"bos":null,"labels":{"pos":["Good"]},"model":"m",'
        '"seed":18446744073709551615,"\\u00e9":"\\u732b"},"layout":{"chunk_rows":8,"columns":{'
        f'"length":{column % ("int32", "")},"logits":{column % ("float32", "2")},'
        f'"probabilities":{column % ("float32", "2")},"seed":{column % ("uint64", "")}}},'
        '"rows":1000,"shard_rows":64}}'
    )
    assert made().fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_a_person_can_read_it() -> None:
    text = made().to_bytes().decode("utf-8")
    assert '  "inputs": {\n    "model": "m",\n' in text
    assert '"é": "猫"' in text


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"a": 1.0}, r"inputs\.a"),
        ({"a": [float("nan")]}, r"inputs\.a\[0\]"),
        ({"a": {"b": {1, 2}}}, r"inputs\.a\.b"),
        ({"a": b"x"}, "bytes"),
        ({"a": object()}, "object"),
        ({1: "a"}, r"inputs\.1"),
        ({"a": "\ud800"}, "surrogate"),
        ({"a": 2**64}, "64 bits"),
        ({"a": np.int64(1)}, "int64"),
    ],
)
def test_inputs_that_cannot_be_written_without_loss_are_refused(inputs: Any, named: str) -> None:
    with pytest.raises(ManifestError, match=named):
        made(inputs=inputs)


def test_endless_inputs_infinite_notes_and_too_large_ones_are_refused() -> None:
    inputs: dict[str, Any] = {}
    inputs["again"] = inputs
    with pytest.raises(ManifestError, match="deep"):
        made(inputs=inputs)
    with pytest.raises(ManifestError, match=r"notes\.a"):
        made(notes={"a": float("inf")})
    with pytest.raises(ManifestError, match="attachments"):
        made(notes={"a": "x" * LARGEST_MANIFEST}).to_bytes()


def test_later_changes_of_the_callers_mapping_change_nothing() -> None:
    inputs = {"a": [1]}
    manifest = made(inputs=inputs)
    before = manifest.fingerprint
    inputs["a"].append(2)
    assert manifest.inputs == {"a": [1]}
    assert made(inputs=manifest.inputs).fingerprint == before


def test_rows_chunks_and_shards_of_a_layout_that_does_not_divide_evenly() -> None:
    layout = Layout(1000, 7, 70, {"x": Column("int8")})
    assert (layout.shards, layout.chunks, layout.chunks_per_shard) == (15, 143, 10)
    assert layout.rows_of(14) == range(980, 1000)
    assert layout.chunks_of(14) == range(140, 143)


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


def test_an_edited_manifest_is_refused_with_and_without_a_fitting_checksum() -> None:
    with pytest.raises(ManifestError, match="fingerprint"):
        Manifest.from_bytes(resealed(lambda d: d["inputs"].update(seed=3)), "m")
    with pytest.raises(ManifestError, match="checksum"):
        Manifest.from_bytes(made().to_bytes().replace(b'"m"', b'"n"'), "m")


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
