import hashlib
import json
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


def reverse(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reverse(item) for key, item in reversed(value.items())}
    return [reverse(item) for item in value] if isinstance(value, list) else value


@given(mappings)
def test_the_order_of_keys_does_not_change_the_fingerprint(inputs: dict[str, Any]) -> None:
    assert made(inputs=reverse(inputs)).fingerprint == made(inputs=inputs).fingerprint


@given(mappings, mappings)
def test_different_inputs_have_different_fingerprints(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    prints = {made(inputs=inputs).fingerprint for inputs in (one, other)}
    # As JSON, since True is not 1.
    assert len(prints) == len({json.dumps(inputs, sort_keys=True) for inputs in (one, other)})


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
def test_the_layout_is_part_of_the_fingerprint_and_what_is_for_people_is_not(
    layout: Layout,
) -> None:
    assert made(layout=layout).fingerprint != made().fingerprint
    other = made(label="x", notes={}, files={}, created="2020-01-01")
    assert other.fingerprint == made().fingerprint


def test_the_fingerprint_is_the_same_in_every_release_and_a_person_can_read_the_file() -> None:
    column = '{"compressed":false,"dtype":"%s","fill":0,"shape":[%s]}'
    text = (
        '{"format_version":1,"inputs":{"bos":null,"labels":{"pos":["Good"]},"model":"m",'
        '"seed":18446744073709551615,"\\u00e9":"\\u732b"},"layout":{"chunk_rows":8,"columns":{'
        f'"length":{column % ("int32", "")},"logits":{column % ("float32", "2")},'
        f'"probabilities":{column % ("float32", "2")},"seed":{column % ("uint64", "")}}},'
        '"rows":1000,"shard_rows":64}}'
    )
    assert made().fingerprint == hashlib.sha256(text.encode()).hexdigest()
    written = made().to_bytes().decode("utf-8")
    assert '  "inputs": {\n    "model": "m",\n' in written
    assert '"é": "猫"' in written


ENDLESS: dict[str, Any] = {}
ENDLESS["again"] = ENDLESS


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
        ({"again": ENDLESS}, "deep"),
    ],
)
def test_inputs_that_cannot_be_written_without_loss_are_refused(inputs: Any, named: str) -> None:
    with pytest.raises(ManifestError, match=named):
        made(inputs=inputs)


def test_infinite_notes_and_too_large_ones_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"notes\.a"):
        made(notes={"a": float("inf")})
    with pytest.raises(ManifestError, match="attachments"):
        made(notes={"a": "x" * LARGEST_MANIFEST}).to_bytes()


def test_later_changes_of_the_callers_mapping_change_nothing() -> None:
    inputs = {"a": [1]}
    manifest = made(inputs=inputs)
    inputs["a"].append(2)
    assert manifest.inputs == {"a": [1]}


def test_rows_chunks_and_shards_of_a_layout_that_does_not_divide_evenly() -> None:
    layout = Layout(1000, 7, 70, {"x": Column("int8")})
    assert (layout.shards, layout.chunks_per_shard) == (15, 10)
    assert layout.rows_of(14) == range(980, 1000)
    assert layout.chunks_of(14) == range(140, 143)


def test_every_flipped_byte_and_every_cut_is_refused() -> None:
    files = dict.fromkeys(("rows/zarr.json", "rows/x/zarr.json"), FILES["rows/zarr.json"])
    layout = replace(LAYOUT, columns={"x": Column("int8")})
    data = made(inputs={"a": 1}, notes={}, layout=layout, files=files).to_bytes()
    Manifest.from_bytes(data, "m")
    for place in range(len(data)):
        for flip in (0x01, 0x07, 0x20, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flip
            with pytest.raises(ManifestError):
                Manifest.from_bytes(bytes(changed), "m")
        with pytest.raises(ManifestError):
            Manifest.from_bytes(data[:place], "m")


def resealed(change: Any) -> bytes:
    """A manifest that someone edited and gave a fitting checksum."""
    document = json.loads(made().to_bytes())
    del document["checksum"]
    change(document)
    return seal(document)


def test_an_edited_manifest_is_refused_though_its_checksum_fits() -> None:
    with pytest.raises(ManifestError, match="fingerprint"):
        Manifest.from_bytes(resealed(lambda d: d["inputs"].update(seed=3)), "m")


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_refused_by_name(version: int) -> None:
    with pytest.raises(VersionError, match=f"version {version} .*reads version 1"):
        Manifest.from_bytes(resealed(lambda d: d.update(format_version=version)), "m")


GONE = object()
SEED = {"dtype": "uint64", "shape": [], "fill": 0, "compressed": False}
ANY_FILE = {"size": 1, "sha256": "0" * 64}
WRONG: dict[tuple[str, ...], list[Any]] = {
    ("extra",): [1],
    ("notes",): [GONE],
    ("format_version",): ["1", True],
    ("label",): [3, "x" * 10**6],
    ("inputs",): [[]],
    ("created",): ["yesterday"],
    ("fingerprint",): [None],
    ("layout", "rows"): [-1, 10**30, "1000", 2**40],
    ("layout", "chunk_rows"): [0],
    ("layout", "shard_rows"): [63, 2**39],
    ("layout", "columns"): [{}, [], {f"c{i}": SEED for i in range(1000)}],
    ("layout", "columns", "../x"): [SEED],
    ("layout", "columns", "seed", "dtype"): ["object", ["int8"]],
    ("layout", "columns", "seed", "shape"): [[2**31, 2**31], [-1], [1] * 40, "2"],
    ("layout", "columns", "seed", "fill"): [-1, GONE],
    ("layout", "columns", "seed", "compressed"): [1],
    ("layout", "columns", "logits", "fill"): [1],
    ("files",): [3],
    ("files", "rows/seed/zarr.json"): [GONE],
    ("files", "attachments/../../x"): [ANY_FILE],
    ("files", "attachments//x"): [ANY_FILE],
    ("files", "/etc/passwd"): [ANY_FILE],
    ("files", "rows/../zarr.json"): [ANY_FILE],
    ("files", "rows/no/zarr.json"): [ANY_FILE],
    ("files", "rows/zarr.json", "size"): [-1, 2**60],
    ("files", "rows/zarr.json", "sha256"): ["z" * 64],
}


def put(document: Any, keys: tuple[str, ...], value: Any) -> None:
    *steps, last = keys
    for step in steps:
        document = document[step]
    if value is GONE:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize("keys", WRONG, ids="/".join)
def test_a_hostile_manifest_ends_in_the_error(keys: tuple[str, ...]) -> None:
    for value in WRONG[keys]:
        with pytest.raises((ManifestError, VersionError)):
            Manifest.from_bytes(resealed(lambda d, value=value: put(d, keys, value)), "m")


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
        made().to_bytes() + b"\n",
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
